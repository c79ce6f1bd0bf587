"""Open a data set of videos: a folder, a list in a csv file, a single video, parquet files, or a Hub id."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_jepa.data.shard_names import find_shards, names_shards
from hf_jepa.data.shards import ShardedRows, ShardOptions
from hf_jepa.data.sources import load_from_hub
from hf_jepa.data.splits import SPLIT_OF, split_folder
from hf_jepa.data.video_columns import standard_video_columns
from hf_jepa.data.video_readers import VIDEO_SUFFIXES, is_image_path, natural_order


if TYPE_CHECKING:
    import datasets


def load_videos(
    name_or_path: str | Path,
    split: str = "train",
    video_column: str | None = None,
    label_column: str | None = None,
    shards: ShardOptions | None = None,
    **load_options: Any,
) -> "datasets.Dataset | ShardedRows":
    """Open a data set of videos; nothing is decoded.

    A folder holds video files and folders of frame images, which are clips too. It is either divided into `train`,
    `validation` (or `val`), `test`, or is all one training split. Clips that lie in folders (`run/1.mp4`,
    `run/clip_7/001.jpg`) have the name of that folder as label. A video file, or a folder that holds nothing but frame
    images, is a single clip. A csv file is a list in the official form, one "path label" per line without a header;
    paths are relative to the file and may be quoted, labels are integers or left out. Shards (tar archives in the form
    of WebDataset, several parquet files) are named as for `load_images`.

    Args:
        name_or_path: what exists on disk is taken from there, everything else is a Hub id.
        split: also in slice form, "train[:10%]", for parquet files and Hub ids.
        video_column, label_column: found by type or name unless given; of parquet files and Hub ids.
        shards: how shards are read.
        load_options: passed to `datasets.load_dataset`, for example `name` (configuration) or `revision`.

    Returns:
        a data set, or `ShardedRows`, with the columns `video` (undecoded bytes or path) and, where there are labels,
        `label` (integer).

    Raises:
        FileNotFoundError: a path that does not exist, or a folder without videos.
        ValueError: an unknown split or column, clips with and without label, a line that is not of that form.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for clip in ("run/1", "walk/2"):
        ...     (root / clip).mkdir(parents=True)
        ...     Image.new("RGB", (8, 8)).save(root / clip / "000.png")
        >>> load_videos(root).features["label"].names
        ['run', 'walk']
    """
    import datasets

    if names_shards(name_or_path):
        paths = find_shards(name_or_path, split)
        return ShardedRows(paths, "video", video_column, label_column, shards)
    path = Path(name_or_path).expanduser()
    if path.is_dir() and not (any(path.glob("*.parquet")) or any(path.glob("*/*.parquet"))):
        return _from_folder(path, split)
    if path.suffix.lower() in (".csv", ".txt"):
        return _from_list(path, split)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _single(path, split)
    if path.exists():
        where = {"data_dir": str(path)} if path.is_dir() else {"data_files": str(path)}
        if path.is_file() and path.suffix != ".parquet":
            raise ValueError(f"{path} is neither a folder, nor a .csv list, nor a parquet file, nor a video")
        dataset = datasets.load_dataset("parquet", split=split, **where, **load_options)
    else:
        dataset = load_from_hub(str(name_or_path), split=split, **load_options)
    return standard_video_columns(dataset, video_column, label_column)


def _from_folder(root: Path, split: str) -> "datasets.Dataset":
    folder = split_folder(root, split)
    clips = _clips(folder)
    if not clips and folder == root and any(is_image_path(file) for file in root.iterdir()):
        return _single(root, split)
    if not clips:
        raise FileNotFoundError(f"{folder} holds neither videos nor folders of frame images")
    depths = {len(clip.relative_to(folder).parts) for clip in clips}
    if depths == {1}:
        return _dataset([str(clip) for clip in clips])
    if depths != {2}:
        raise ValueError(
            f"clips of {folder} lie {' and '.join(map(str, sorted(depths)))} levels deep: put all of them in it, or "
            "all of them in one folder per class, or write a csv list"
        )
    # Classes of all splits, so that every split numbers them alike.
    parts = [folder] if folder == root else [entry for entry in root.iterdir() if entry.name in SPLIT_OF]
    names = sorted({clip.relative_to(part).parts[0] for part in parts for clip in _clips(part)})
    numbers = [names.index(clip.relative_to(folder).parts[0]) for clip in clips]
    return _dataset([str(clip) for clip in clips], numbers, names)


def _single(clip: Path, split: str) -> "datasets.Dataset":
    if not clip.exists():
        raise FileNotFoundError(f"no such file or folder: {clip}")
    if split != "train":
        raise ValueError(f"{clip} is a single clip and has no split {split!r}: say split='train'")
    return _dataset([str(clip)])


def _clips(folder: Path) -> list[Path]:
    """Video files, and folders that hold images, in a fixed order."""
    files = {entry for entry in folder.rglob("*") if entry.is_file()}
    videos = {file for file in files if file.suffix.lower() in VIDEO_SUFFIXES}
    frames = {file.parent for file in files if is_image_path(file) and file.parent != folder}
    return sorted(videos | frames, key=lambda clip: [natural_order(Path(part)) for part in clip.parts])


def _from_list(path: Path, split: str) -> "datasets.Dataset":
    if split != "train":
        raise ValueError(
            f"a list of videos has no split {split!r}: give every split a file of its own, and split='train'"
        )
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} lists no videos")
    rows = [re.fullmatch(r'"?(.+?)"?(?:[ ,;\t]+(-?\d+))?', line).groups() for line in lines]
    labelled = sum(label is not None for _, label in rows)
    if labelled not in (0, len(rows)):
        line = next(i for i, (_, label) in enumerate(rows) if label is None)
        raise ValueError(f"{path} line {line + 1} has no integer label, others have: {lines[line]!r}")
    videos = [video if "://" in video else str(path.parent / video) for video, _ in rows]
    return _dataset(videos, [int(label) for _, label in rows] if labelled else None)


def _dataset(videos: list[str], labels: list[int] | None = None, names: list[str] | None = None) -> "datasets.Dataset":
    import datasets

    columns, features = {"video": videos}, {"video": datasets.Video(decode=False)}
    if labels is not None:
        columns["label"] = labels
        features["label"] = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


__all__ = ["load_videos"]
