"""Which columns hold images, videos, queries and targets, and the rows of any data set with standard names."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_jepa.data.columns import IMAGE_NAMES, is_text
from hf_jepa.data.video_columns import is_encoded
from hf_jepa.data.video_readers import is_image_path


if TYPE_CHECKING:
    import datasets

VIDEO_NAMES = ("video", "mp4", "clip")
PATH_NAMES = ("file_name", "path")
TARGET_NAMES = ("target", "caption", "text", "answer", "txt")
QUERY_NAMES = ("query", "question", "prompt")
TIME_NAMES = ("start", "end")
MEDIA = ("video", "image")


@dataclass(frozen=True)
class VisionTextColumns:
    """The names of the columns, by what they are for.

    Args:
        video, image: files, their bytes or paths; of a row with both the video counts.
        path: files of which the suffix says whether they are images.
        query, target: texts, or lists of texts that say the same.
        start, end: of the part of a video that the texts are about, in seconds.

    Example:
        >>> columns = VisionTextColumns(video="clip", target="caption")
        >>> columns.row({"clip": "a/1.mp4", "caption": "a seven moves left"}, root="/videos")
        {'video': '/videos/a/1.mp4', 'query': None, 'target': 'a seven moves left'}
    """

    target: str
    video: str | None = None
    image: str | None = None
    path: str | None = None
    query: str | None = None
    start: str | None = None
    end: str | None = None

    def row(self, row: Mapping[str, Any], root: str | None = None) -> dict[str, Any]:
        """A row with the standard names.

        Args:
            row: of the data set, with undecoded files.
            root: of relative paths.
        """
        image = self.is_image(row)
        column = self.path or (self.image if image else self.video)
        value = row[column] if column else None  # a row of a mixed data set may have neither
        found = {"image" if image else "video": _located(value, root)}
        found |= {"query": row[self.query] if self.query else None, "target": row[self.target]}
        times = {name: row[column] for name in TIME_NAMES if (column := getattr(self, name))}
        return found | {name: time for name, time in times.items() if time is not None}

    def is_image(self, row: Mapping[str, Any]) -> bool:
        """Whether a row holds an image."""
        if self.path:
            return is_image_path(row[self.path] or "")
        return self.video is None or (self.image is not None and not row[self.video] and bool(row[self.image]))


def _located(value: Any, root: str | None) -> Any:
    """A relative path below `root`."""
    path = value.get("path") if isinstance(value, Mapping) and value.get("bytes") is None else value
    if root is None or not isinstance(path, str) or not path or "://" in path:
        return value
    return os.path.join(root, path)


def find_text_column(
    names: Collection[str], usual: Sequence[str], wanted: str | None = None, option: str = "column"
) -> str | None:
    """The name of a text among those of a record.

    Args:
        names: of the record.
        usual: those a text usually has; the first of them needs no comparison with the others.
        wanted: the user's choice.
        option: how the user makes it, for the messages.

    Returns:
        the name, None where nothing was asked for and nothing found.

    Raises:
        ValueError: the name asked for does not exist, or several usual ones do.

    Example:
        >>> find_text_column(["video", "caption"], TARGET_NAMES)
        'caption'
    """
    if wanted is not None:
        if wanted not in names:
            raise ValueError(f"{option} {wanted!r} is not one of {sorted(names)}")
        return wanted
    found = [name for name in usual if name in names]
    if len(found) > 1 and found[0] != usual[0]:
        raise ValueError(f"{' and '.join(map(repr, found))} may both be meant: choose one by {option}=...")
    return found[0] if found else None


def find_vision_text_columns(
    features: "datasets.Features",
    media: str | None = None,
    media_column: str | None = None,
    query_column: str | None = None,
    target_column: str | None = None,
) -> VisionTextColumns:
    """What the columns of a data set are for.

    Args:
        features: of the data set.
        media: "video" or "image", which of a data set that has both, or what a `media_column` of bytes holds.
        media_column, query_column, target_column: the user's choice; without it they are found by type, then by name.

    Returns:
        the columns.

    Raises:
        ValueError: a column that does not exist, holds something else, or is not the only one; the message lists the
            columns.

    Example:
        >>> import datasets
        >>> text = datasets.Value("string")
        >>> find_vision_text_columns(datasets.Features({"jpg": datasets.Image(), "txt": text}))
        VisionTextColumns(target='txt', video=None, image='jpg', path=None, query=None, start=None, end=None)
    """
    if media not in (None, *MEDIA):
        raise ValueError(f"media {media!r} is not one of {', '.join(MEDIA)}")
    found = _media_columns(features, media, media_column)
    if not found:
        wanted = "images or videos" if media is None else f"{media}s"
        raise ValueError(
            f"no column of {wanted} among {sorted(features)}; choose one by media_column=... and "
            "say media='video' or 'image'"
        )
    target = find_text_column(features, TARGET_NAMES, target_column, "target_column")
    query = find_text_column(features, QUERY_NAMES, query_column, "query_column")
    if target is None:
        raise ValueError(f"no column of targets among {sorted(features)}; choose one by target_column=...")
    for name in (target, query):
        if name is not None and not _is_text(features[name]):
            raise ValueError(f"column {name!r} holds {features[name]}, not text or lists of text")
    times = {name: name for name in TIME_NAMES if name in features and _is_number(features[name])}
    return VisionTextColumns(target=target, query=query, **found, **times)


def _media_columns(features: "datasets.Features", media: str | None, wanted: str | None) -> dict[str, str]:
    """Column by "video", "image" or "path"."""
    import datasets

    if wanted is not None and wanted not in features:
        raise ValueError(f"media_column {wanted!r} is not one of the columns {sorted(features)}")
    names = list(features) if wanted is None else [wanted]
    types = {"video": datasets.Video, "image": datasets.Image}
    usual = {"video": VIDEO_NAMES, "image": IMAGE_NAMES, "path": PATH_NAMES}
    candidates = {kind: [name for name in names if isinstance(features[name], types[kind])] for kind in types}
    encoded = [name for name in names if is_encoded(features[name])]
    for kind in types:
        candidates[kind] = candidates[kind] or [name for name in encoded if name in usual[kind]]
    if media is not None:
        candidates = {media: candidates[media]}
    if not any(candidates.values()):
        kind = media if media and wanted else "path"
        paths = [name for name in encoded if wanted or name in PATH_NAMES]
        candidates = {kind: [name for name in paths if kind != "path" or _is_text(features[name])]}
    if several := [found for found in candidates.values() if len(found) > 1]:
        raise ValueError(f"more than one column of media: {several[0]}; choose one by media_column=...")
    return {kind: found[0] for kind, found in candidates.items() if found}


def _is_text(feature: Any) -> bool:
    return is_text(getattr(feature, "feature", feature))  # of a list, too


def _is_number(feature: Any) -> bool:
    return str(getattr(feature, "dtype", "")).startswith(("int", "uint", "float"))


def undecoded(
    dataset: "datasets.Dataset | datasets.IterableDataset", columns: VisionTextColumns
) -> "datasets.Dataset | datasets.IterableDataset":
    """A data set whose files are not decoded as they are read: one that is corrupt would stop it."""
    import datasets

    dataset = dataset.with_format(None)
    for kind, feature in (("video", datasets.Video), ("image", datasets.Image)):
        name = getattr(columns, kind)
        if name is not None and isinstance(dataset.features[name], feature):
            dataset = dataset.cast_column(name, feature(decode=False))
    return dataset


def standard_stream(
    dataset: "datasets.IterableDataset",
    media: str | None = None,
    media_column: str | None = None,
    query_column: str | None = None,
    target_column: str | None = None,
    root: str | None = None,
) -> "datasets.IterableDataset":
    """The rows of a stream in the form of `VisionTextRows`.

    Args:
        dataset: streamed.
        media, media_column, query_column, target_column: as of `find_vision_text_columns`.
        root: of relative paths.

    Raises:
        ValueError: as `find_vision_text_columns`; a stream without records.

    Example:
        >>> import datasets
        >>> records = datasets.Dataset.from_list([{"image": "1.jpg", "caption": "a cat"}])
        >>> next(iter(standard_stream(records.to_iterable_dataset(), root="photos")))
        {'image': 'photos/1.jpg', 'query': None, 'target': 'a cat'}
    """
    import datasets

    if dataset.features is None:  # they are not stored, so the first record tells
        first = next(iter(dataset), None)
        if first is None:
            raise ValueError("the stream holds no records")
        dataset = dataset.cast(datasets.Dataset.from_list([first]).features)
    columns = find_vision_text_columns(dataset.features, media, media_column, query_column, target_column)
    dataset = undecoded(dataset, columns)
    if media is not None and columns.path:
        dataset = dataset.filter(lambda row: columns.is_image(row) == (media == "image"))
    return dataset.map(columns.row, fn_kwargs={"root": root}, remove_columns=dataset.column_names)


class VisionTextRows(Sequence):
    """The rows of a `datasets.Dataset` as `VisionTextDataset` reads them, files undecoded.

    Args:
        dataset: map-style.
        columns: what its columns are for; found unless given.
        root: of relative paths.

    Attributes:
        is_image: bool (N,), which rows hold images.

    Example:
        >>> import datasets
        >>> records = [{"image": "1.jpg", "caption": "a cat"}, {"image": "2.jpg", "caption": "a dog"}]
        >>> rows = VisionTextRows(datasets.Dataset.from_list(records), root="photos")
        >>> rows[1]
        {'image': 'photos/2.jpg', 'query': None, 'target': 'a dog'}
    """

    def __init__(self, dataset: "datasets.Dataset", columns: VisionTextColumns | None = None, root: str | None = None):
        self.columns = columns or find_vision_text_columns(dataset.features)
        self.dataset, self.root = undecoded(dataset, self.columns), root

    @property
    def is_image(self) -> np.ndarray:
        columns = self.columns
        names = [name for name in (columns.path, columns.video, columns.image) if name is not None]
        if len(names) == 1 and not columns.path:
            return np.broadcast_to(columns.video is None, len(self))
        return np.array([columns.is_image(row) for row in self.dataset.select_columns(names)], bool)

    def only(self, media: str) -> "VisionTextRows":
        """The rows that hold videos, or those that hold images, of a data set whose files have names."""
        name = getattr(self.columns, media)
        if self.columns.path:
            keep = self.is_image == (media == "image")
        elif name is not None and _is_text(self.dataset.features[name]):
            keep = np.array([bool(path) for path in self.dataset[name]], bool)
        else:
            return self
        rows = np.flatnonzero(keep)
        return self if len(rows) == len(self) else VisionTextRows(self.dataset.select(rows), self.columns, self.root)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.columns.row(self.dataset[int(index)], self.root)


__all__ = [
    "QUERY_NAMES",
    "TARGET_NAMES",
    "VisionTextColumns",
    "VisionTextRows",
    "find_text_column",
    "find_vision_text_columns",
    "standard_stream",
    "undecoded",
]
