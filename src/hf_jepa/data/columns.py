"""Which column of a data set holds the images, and which the labels."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import datasets

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")
LABEL_NAMES = ("label", "labels", "cls")


def find_image_column(features: "datasets.Features", wanted: str | None = None) -> str:
    """Name of the image column.

    Args:
        features: of the data set.
        wanted: the user's choice; without it a column of type Image, then one with a usual name.

    Returns:
        the column.

    Raises:
        ValueError: it does not exist, holds no images, or it is not clear which one it is; the message lists the
            columns.

    Example:
        >>> import datasets
        >>> find_image_column(datasets.Features({"photo": datasets.Image(), "label": datasets.Value("int64")}))
        'photo'
    """
    import datasets

    if wanted is not None:
        require_column(features, wanted, "image_column")
        feature = features[wanted]
        if not (isinstance(feature, datasets.Image) or _holds_encoded_image(feature) or is_text(feature)):
            raise ValueError(f"image_column {wanted!r} holds neither images, nor their bytes or paths, but {feature}")
        return wanted
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    encoded = [name for name, feature in features.items() if _holds_encoded_image(feature)]
    candidates = typed or [name for name in encoded if isinstance(features[name], dict) or name in IMAGE_NAMES]
    usual = [name for name in IMAGE_NAMES if name in candidates]
    if len(candidates) == 1 or usual:
        return (usual or candidates)[0]
    problem = f"more than one image column: {candidates}" if candidates else "no image column"
    raise ValueError(f"{problem} among the columns {sorted(features)}; choose one by image_column=...")


def _holds_encoded_image(feature: Any) -> bool:
    """Parquet files written without `datasets` keep images as {bytes, path} or as plain bytes."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def find_label_column(features: "datasets.Features", wanted: str | None = None) -> str | None:
    """Name of the label column.

    Args:
        features: of the data set.
        wanted: the user's choice; without it `label`, `labels` or `cls`, then the only column of type ClassLabel.

    Returns:
        the column, None where nothing was asked for and nothing found.

    Raises:
        ValueError: the column asked for does not exist or holds neither class names nor integers.

    Example:
        >>> import datasets
        >>> animal = datasets.ClassLabel(names=["cat", "dog"])
        >>> find_label_column(datasets.Features({"image": datasets.Image(), "animal": animal}))
        'animal'
    """
    import datasets

    if wanted is not None:
        require_column(features, wanted, "label_column")
        if not _is_label(features[wanted]):
            raise ValueError(f"label_column {wanted!r} holds neither class names nor integers, but {features[wanted]}")
        return wanted
    usual = [name for name in LABEL_NAMES if name in features and _is_label(features[name])]
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if usual:
        return usual[0]
    return classes[0] if len(classes) == 1 else None


def standard_columns(
    dataset: "datasets.Dataset | datasets.IterableDataset",
    image_column: str | None = None,
    label_column: str | None = None,
) -> "datasets.Dataset | datasets.IterableDataset":
    """Reduce a data set to the columns `image`, undecoded, and `label`, integers, where it has labels.

    Undecoded, because one corrupt file would otherwise stop the data set itself. Text labels become class numbers in
    alphabetical order; a stream cannot number them and goes without. A second call changes nothing.

    Args:
        dataset: map-style or streamed.
        image_column, label_column: as in `find_image_column` and `find_label_column`.

    Returns:
        the data set with one or two columns.

    Raises:
        ValueError: as the two functions; a stream of unknown columns, or with text in the `label_column` asked for.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"img": [{"bytes": b"", "path": None}], "animal": ["cat"], "id": [3]})
        >>> standard_columns(rows, label_column="animal")[0]
        {'image': {'bytes': b'', 'path': None}, 'label': 0}
    """
    import datasets

    features = dataset.features
    if features is None:
        raise ValueError("the columns of this stream are not known in advance: load it with streaming=False")
    image, label = find_image_column(features, image_column), find_label_column(features, label_column)
    if label and is_text(features[label]) and isinstance(dataset, datasets.IterableDataset):
        if label_column is not None:  # the classes are only known after the last row
            raise ValueError(f"the labels in {label!r} are text, which a stream cannot number: use streaming=False")
        label = None
    return keep_columns(dataset, "image", image, label)


def keep_columns(dataset: Any, media: str, column: str, label: str | None) -> Any:
    """A data set with nothing but its media, undecoded, and its labels, under the names that are read.

    Args:
        dataset: of `datasets`.
        media: "image" or "video".
        column, label: what they are called now; None without labels.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"img": [{"bytes": b"", "path": None}], "animal": ["cat"], "id": [3]})
        >>> keep_columns(rows, "image", "img", "animal").features["label"].names
        ['cat']
    """
    import datasets

    names = {column: media} if label is None else {column: media, label: "label"}
    text = label is not None and is_text(dataset.features[label])
    feature = {"image": datasets.Image, "video": datasets.Video}[media](decode=False)
    dataset = dataset.with_format(None).select_columns(list(names)).cast_column(column, feature)
    if text:
        dataset = dataset.class_encode_column(label)
    return dataset.rename_columns({old: new for old, new in names.items() if old != new})


def check_same_classes(first: str, names: list[str] | None, second: str, others: list[str] | None) -> None:
    """Make sure that a number stands for the same class in two splits.

    Args:
        first, second: names of the splits.
        names, others: names of their classes in the order of their numbers, None where they have no names.

    Raises:
        ValueError: they differ; the message names the classes that only one of them has.

    Example:
        >>> check_same_classes("train", ["cat", "dog"], "test", ["cat", "dog"])
    """
    if names == others:
        return
    alone = sorted(set(names or ()) ^ set(others or ()))
    shown = f"only one has {', '.join(alone[:5])}{' ...' if len(alone) > 5 else ''}" if alone else "in another order"
    raise ValueError(
        f"splits {first!r} and {second!r} number their classes differently ({shown}): text labels are numbered split "
        "by split, so store them as ClassLabel (`dataset.class_encode_column`) before splitting"
    )


def column_names(rows: Any) -> list[str]:
    """The columns of a sequence of rows; only one that does not say them is asked for its first row.

    Example:
        >>> column_names([{"image": b"", "label": 3}])
        ['image', 'label']
    """
    return rows.column_names if hasattr(rows, "column_names") else sorted(rows[0])


def is_text(feature: Any) -> bool:
    """Whether a column holds strings.

    Example:
        >>> import datasets
        >>> is_text(datasets.Value("string")), is_text(datasets.Value("binary"))
        (True, False)
    """
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _is_label(feature: Any) -> bool:
    dtype = str(getattr(feature, "dtype", ""))  # a ClassLabel has dtype int64
    return is_text(feature) or dtype == "bool" or dtype.lstrip("u").startswith("int")


def require_column(features: "datasets.Features", name: str, option: str) -> None:
    """Raise a ValueError where the column that an option names does not exist."""
    if name not in features:
        raise ValueError(f"{option} {name!r} is not one of the columns {sorted(features)}")


__all__ = [
    "check_same_classes",
    "column_names",
    "find_image_column",
    "find_label_column",
    "is_text",
    "keep_columns",
    "require_column",
    "standard_columns",
]
