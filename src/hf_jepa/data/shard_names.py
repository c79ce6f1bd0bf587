"""The shards of a data set by name: files and addresses, folders, patterns."""

import re
from pathlib import Path

from fsspec.core import url_to_fs

from hf_jepa.data.splits import SPLIT_FOLDERS


SHARD_SUFFIXES = (".tar", ".parquet")


def names_shards(name: str | Path) -> bool:
    """Whether a data set is named by its shards: a tar archive, a folder of such, or several shards at once.

    One parquet file on disk, or a folder of them, is none: `datasets` maps those into memory.

    Example:
        >>> [names_shards(name) for name in ("a.tar", "s3://bucket/{00..99}.parquet", "a.parquet", "org/photos")]
        [True, True, False, False]
    """
    path = Path(name).expanduser()
    if path.is_dir():
        folders = [path, *(path / name for names in SPLIT_FOLDERS.values() for name in names)]
        return any(any(folder.glob("*.tar")) for folder in folders)
    text = str(name)
    return text.endswith(".tar") or (text.endswith(".parquet") and not path.exists() and _is_several(text))


def _is_several(name: str) -> bool:
    return "://" in name or any(sign in name for sign in "{*?")


def find_shards(name: str | Path, split: str = "train") -> list[str]:
    """The shards that a name stands for.

    Args:
        name: a file, a folder of tar archives (divided into `train`, `val`, ... or not), or a pattern with
            "{000..099}", "*" or "?"; on disk, or an address that fsspec opens (hf://, https://, s3://, ...).
        split: of a folder that is divided; everything else is one training split.

    Returns:
        paths or addresses, in an order that does not depend on the file system.

    Raises:
        FileNotFoundError: nothing has that name.
        ValueError: an unknown split, or files that are no shards.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for number in (0, 1, 2):
        ...     (root / f"train-{number:03}.tar").touch()
        >>> [Path(shard).name for shard in find_shards(f"{root}/train-{{001..002}}.tar")]
        ['train-001.tar', 'train-002.tar']
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_folder(path, split)
    if split != "train":
        raise ValueError(f"{name} has no split {split!r}: name the shards of every split, and say split='train'")
    text = str(name) if "://" in str(name) else str(path)
    shards = [shard for pattern in _braces(text) for shard in _matches(pattern)]
    if wrong := [shard for shard in shards if not shard.endswith(SHARD_SUFFIXES)]:
        raise ValueError(f"{wrong[0]} is not a shard: {name} must name {' or '.join(SHARD_SUFFIXES)} files")
    if twice := len(shards) - len(set(shards)):
        raise ValueError(f"{name} names {twice} shards twice")
    return shards


def _in_folder(root: Path, split: str) -> list[str]:
    folders = [root / name for name in SPLIT_FOLDERS.get(split, ()) if any((root / name).glob("*.tar"))]
    if not folders and split == "train":
        folders = [root]
        others = {word for name, words in SPLIT_FOLDERS.items() if name != "train" for word in words}
        if other := [file.name for file in root.glob("*.tar") if others & set(re.split("[^a-z]+", file.stem.lower()))]:
            raise ValueError(f"{root} holds other splits too ({other[0]}): name its shards by a pattern, train-*.tar")
    shards = [str(shard) for folder in folders for shard in sorted(folder.glob("*.tar"))]
    if not shards:
        raise ValueError(f"{root} has no split {split!r}: no folder of that name in it holds tar archives")
    return shards


def _braces(pattern: str) -> list[str]:
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    if int(last) < int(first):
        raise ValueError(f"the range {found[0]} in {pattern} is empty")
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [
        shard for number in numbers for shard in _braces(pattern[: found.start()] + number + pattern[found.end() :])
    ]


def _matches(pattern: str) -> list[str]:
    if not any(sign in pattern for sign in "*?"):
        return [pattern]
    files, path = url_to_fs(pattern)
    found = sorted(files.glob(path))
    if not found:
        raise FileNotFoundError(f"no file matches {pattern}")
    return [files.unstrip_protocol(file) if "://" in pattern else file for file in found]


__all__ = ["find_shards", "names_shards"]
