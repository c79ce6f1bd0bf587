"""Open images or videos with texts: JSONL, a folder with a list of captions, parquet, shards, or a Hub id."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_jepa.data.json_lines import check_json_lines
from hf_jepa.data.shard_names import find_shards, names_shards
from hf_jepa.data.shards import ShardOptions
from hf_jepa.data.sources import load_from_hub
from hf_jepa.data.splits import split_folder
from hf_jepa.data.vision_text_columns import VisionTextRows, find_vision_text_columns, standard_stream
from hf_jepa.data.vision_text_shards import VisionTextShards


if TYPE_CHECKING:
    import datasets

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
LISTS = tuple(f"{name}{suffix}" for name in ("captions", "metadata") for suffix in (".jsonl", ".csv", ".parquet"))


def load_vision_text(
    name_or_path: str | Path,
    split: str = "train",
    media: str | None = None,
    streaming: bool = False,
    media_column: str | None = None,
    query_column: str | None = None,
    target_column: str | None = None,
    shards: ShardOptions | None = None,
    **load_options: Any,
) -> "VisionTextRows | VisionTextShards | datasets.IterableDataset":
    """Open a data set of images or videos with texts; nothing is decoded.

    A record has an image or a video, a `target` (or `caption`, `text`, `answer`), and perhaps a `query` (or
    `question`, `prompt`). A text may be a list of texts that say the same. Records of videos may have a `start` and an
    `end` in seconds, if their texts are about a part of a long video.

    - A .jsonl, .csv or .parquet file holds one record per line or row; its paths are relative to its folder. A column
      `file_name` holds paths of either kind.
    - A folder has such a list of its files, `captions` or `metadata` (.jsonl, .csv, .parquet), or parquet files alone.
      It is either divided into `train`, `validation` (or `val`), `test`, or is all one training split.
    - Shards are named as for `load_images`; see `VisionTextShards`.

    Args:
        name_or_path: what exists on disk is taken from there, everything else is a Hub id.
        split: also in slice form, "train[:10%]", except of shards.
        media: "image" or "video", to take only these of a data set that has both; shards need it.
        streaming: read while iterating; of files and Hub ids.
        media_column, query_column, target_column: found by type or name unless given.
        shards: how shards are read.
        load_options: passed to `datasets.load_dataset`, for example `name` (configuration) or `revision`.

    Returns:
        rows {"image" or "video", "query", "target"}, with "start" and "end" where a record has them.

    Raises:
        FileNotFoundError: a path that does not exist, or a folder without a list and without parquet files.
        ValueError: an unknown split or column, a line that is no JSON, with its file and number, or no records.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "clips.jsonl"
        >>> _ = path.write_text('{"video": "1.mp4", "question": "what does the seven do?", "answer": "moves left"}')
        >>> row = load_vision_text(path)[0]
        >>> Path(row["video"]).name, row["query"], row["target"]
        ('1.mp4', 'what does the seven do?', 'moves left')
    """
    if names_shards(name_or_path):
        if media is None:
            raise ValueError(f"say media='video' or media='image' for the shards {name_or_path}")
        if streaming:
            raise ValueError(f"shards are always read while iterating: leave out streaming=True for {name_or_path}")
        paths = find_shards(name_or_path, split)
        return VisionTextShards(paths, media, media_column, query_column, target_column, shards)
    dataset, root = _open(name_or_path, split, streaming, load_options)
    if streaming:
        return standard_stream(dataset, media, media_column, query_column, target_column, root)
    if not len(dataset):
        raise ValueError(f"{name_or_path} holds no records")
    columns = find_vision_text_columns(dataset.features, media, media_column, query_column, target_column)
    rows = VisionTextRows(dataset, columns, root)
    return rows if media is None else rows.only(media)


def _open(
    name_or_path: str | Path, split: str, streaming: bool, load_options: dict[str, Any]
) -> "tuple[datasets.Dataset | datasets.IterableDataset, str | None]":
    """A data set of `datasets`, and the folder that its paths are relative to."""
    import datasets

    path, options = Path(name_or_path).expanduser(), {"split": split, "streaming": streaming} | load_options
    if path.is_dir():
        folder, _, part = split.partition("[")
        path = _list_of(split_folder(path, folder))
        options["split"] = f"train[{part}" if part else "train"
    elif not path.exists():
        if path.suffix in READERS:
            raise FileNotFoundError(f"no such file or folder: {name_or_path}")
        return load_from_hub(str(name_or_path), **options), None
    if path.is_dir():
        return datasets.load_dataset("parquet", data_files=str(path / "*.parquet"), **options), str(path)
    if path.suffix not in READERS:
        raise ValueError(f"{path} is none of {', '.join(READERS)}: records come from a list, a folder or a Hub id")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    try:
        return datasets.load_dataset(READERS[path.suffix], data_files=str(path), **options), str(path.parent)
    except (datasets.exceptions.DatasetGenerationError, ValueError):
        if path.suffix == ".jsonl":
            check_json_lines(path)  # says which line it is
        raise


def _list_of(folder: Path) -> Path:
    """The list of captions of a folder; the folder itself where it holds parquet files."""
    found = [folder / name for name in LISTS if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder} holds {found[0].name} and {found[1].name}: name the one to be read")
    if found:
        return found[0]
    if any(folder.glob("*.parquet")):
        return folder
    raise FileNotFoundError(f"{folder} holds neither a list of captions ({', '.join(LISTS)}) nor parquet files")


__all__ = ["load_vision_text"]
