"""Open a data set of images: a folder, parquet files, shards, or a Hub id."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from hf_jepa.data.columns import standard_columns
from hf_jepa.data.shard_names import find_shards, names_shards
from hf_jepa.data.shards import ShardedRows, ShardOptions
from hf_jepa.data.splits import SPLIT_OF, split_folder


if TYPE_CHECKING:
    import datasets


def load_images(
    name_or_path: str | Path,
    split: str = "train",
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    shards: ShardOptions | None = None,
    **load_options: Any,
) -> "datasets.Dataset | datasets.IterableDataset | ShardedRows":
    """Open a data set of images from a folder, a parquet file or folder, shards, or a Hub id.

    A folder of images is either divided into `train`, `validation` (or `val`), `test`, or is all one training split;
    file names never decide, so that `cats/test_1.jpg` is no test set. The folders inside give the labels.

    Shards are tar archives in the form of WebDataset, or several parquet files: "a.tar", a folder of archives,
    patterns as "train-{000..099}.tar" and "s3://bucket/*.parquet". They are not copied, see `ShardedRows`.

    Args:
        name_or_path: what exists on disk is taken from there, everything else is a Hub id.
        split: also in slice form, "train[:10%]", except of shards.
        streaming: read while iterating instead of downloading and indexing first; shards always are.
        image_column: found by type or name unless given.
        label_column: found by name or type unless given; folder names for a folder of images.
        shards: how shards are read.
        load_options: passed to `datasets.load_dataset`, for example `name` (configuration) or `revision`.

    Returns:
        a data set, or `ShardedRows`, with the columns `image` (undecoded bytes or path) and, where there are labels,
        `label` (integer).

    Raises:
        FileNotFoundError: a path that does not exist, or a folder without images or parquet files.
        ValueError: an unknown split or column; the message lists those there are.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for kind in ("cat", "dog"):
        ...     (root / kind).mkdir()
        ...     Image.new("RGB", (8, 8)).save(root / kind / "1.png")
        >>> load_images(root, streaming=True).features["label"].names
        ['cat', 'dog']
    """
    import datasets

    if names_shards(name_or_path):
        return ShardedRows(find_shards(name_or_path, split), "image", image_column, label_column, shards)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        source, options = _folder_options(path, split.split("[")[0])
    elif path.is_file():
        source, options = _file_options(path)
    else:
        dataset = load_from_hub(str(name_or_path), split=split, streaming=streaming, **load_options)
        return standard_columns(dataset, image_column, label_column)
    dataset = datasets.load_dataset(source, split=split, streaming=streaming, **options, **load_options)
    return standard_columns(dataset, image_column, label_column)


def load_from_hub(name: str, **options: Any) -> "datasets.Dataset | datasets.IterableDataset":
    """`datasets.load_dataset` for what is not on disk.

    Args:
        name: Hub id of a data set.
        options: passed on.

    Raises:
        FileNotFoundError: it is no Hub id.
        OSError: the Hub does not give it.

    Example:
        >>> load_from_hub("./photos")
        Traceback (most recent call last):
        FileNotFoundError: no such file or folder: ./photos
    """
    import datasets

    if not is_hub_id(name):
        raise FileNotFoundError(f"no such file or folder: {name}")
    try:
        return datasets.load_dataset(name, **options)
    except OSError as error:
        raise OSError(f"{name} is no file or folder here, and the Hub has not given it: {error}") from error


def is_hub_id(name: str) -> bool:
    """Whether a name that is no path here could be one of the Hub.

    Example:
        >>> is_hub_id("someone/photos"), is_hub_id("./photos"), is_hub_id("/data/photos")
        (True, False, False)
    """
    parts = name.split("/")
    return len(parts) <= 2 and all(parts) and not name.startswith((".", "~")) and not name.endswith(".parquet")


def _file_options(path: Path) -> tuple[str, dict]:
    if path.suffix != ".parquet":
        raise ValueError(f"{path} is not a parquet file; images may come from a folder, parquet files or a Hub id")
    return "parquet", {"data_files": str(path)}


def _folder_options(path: Path, split: str) -> tuple[str, dict]:
    """Builder name and its arguments, so that every split of a folder numbers the classes alike."""
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        raise ValueError(
            f"{path} was written by save_to_disk: open it with datasets.load_from_disk and pass the result"
        )
    if any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        return "parquet", {"data_dir": str(path)}  # splits are found by the usual names train-00000-of-00002.parquet
    if not any(file.suffix.lower() in Image.registered_extensions() for file in path.rglob("*")):
        raise FileNotFoundError(f"{path} holds neither images nor parquet files")
    if split_folder(path, split) == path:
        return "imagefolder", {"data_dir": str(path), "data_files": {"train": "**"}}
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name in SPLIT_OF)
    files = {SPLIT_OF[folder]: f"{folder}/**" for folder in folders}
    return "imagefolder", {"data_dir": str(path), "data_files": files}


__all__ = ["is_hub_id", "load_from_hub", "load_images"]
