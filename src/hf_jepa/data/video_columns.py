"""Which column of a data set holds the videos, and its rows in the form that `VideoDataset` reads."""

from typing import TYPE_CHECKING, Any

from hf_jepa.data.columns import find_label_column, is_text, keep_columns, require_column


if TYPE_CHECKING:
    import datasets

VIDEO_NAMES = ("video", "mp4", "clip", "path")


def find_video_column(features: "datasets.Features", wanted: str | None = None) -> str:
    """Name of the column that holds videos (or images, which become static clips).

    Args:
        features: of the data set.
        wanted: the user's choice; without it a column of type Video, then encoded files or paths with a usual name,
            then a column of type Image.

    Returns:
        the column.

    Raises:
        ValueError: it does not exist, holds no videos, or it is not clear which one it is; the message lists the
            columns.

    Example:
        >>> import datasets
        >>> find_video_column(datasets.Features({"clip": datasets.Video(), "label": datasets.Value("int8")}))
        'clip'
    """
    import datasets

    if wanted is not None:
        require_column(features, wanted, "video_column")
        if not (isinstance(features[wanted], (datasets.Video, datasets.Image)) or is_encoded(features[wanted])):
            raise ValueError(f"video_column {wanted!r} holds neither videos, nor bytes or paths: {features[wanted]}")
        return wanted
    kinds = [
        [name for name, feature in features.items() if isinstance(feature, datasets.Video)],
        [name for name, feature in features.items() if name in VIDEO_NAMES and is_encoded(feature)],
        [name for name, feature in features.items() if isinstance(feature, datasets.Image)],
    ]
    for candidates in kinds:
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise ValueError(f"more than one video column: {candidates}; choose one by video_column=...")
    raise ValueError(f"no video column among the columns {sorted(features)}; choose one by video_column=...")


def is_encoded(feature: Any) -> bool:
    """Whether a column holds {bytes, path}, plain bytes, or paths.

    Example:
        >>> import datasets
        >>> is_encoded(datasets.Value("binary")), is_encoded(datasets.Value("int64"))
        (True, False)
    """
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return is_text(feature) or getattr(feature, "dtype", None) in ("binary", "large_binary")


def standard_video_columns(
    dataset: "datasets.Dataset", video_column: str | None = None, label_column: str | None = None
) -> "datasets.Dataset":
    """Reduce a data set to the columns `video` (or `image`), undecoded, and `label`, integers, where it has labels.

    Undecoded, because `datasets` itself decodes with torchcodec only, and one corrupt file would stop it. Text labels
    become class numbers in alphabetical order. A second call changes nothing.

    Args:
        dataset: map-style.
        video_column, label_column: as in `find_video_column`, `find_label_column`.

    Returns:
        the data set with one or two columns.

    Raises:
        ValueError: as the two functions.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"path": ["a.mp4"], "label": ["run"], "id": [3]})
        >>> standard_video_columns(rows)[0]
        {'video': {'bytes': None, 'path': 'a.mp4'}, 'label': 0}
    """
    import datasets

    features = dataset.features
    video, label = find_video_column(features, video_column), find_label_column(features, label_column)
    return keep_columns(dataset, "image" if isinstance(features[video], datasets.Image) else "video", video, label)


__all__ = ["find_video_column", "is_encoded", "standard_video_columns"]
