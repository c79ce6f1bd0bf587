"""What lies where in a shard: a tar archive in the form of WebDataset, or a parquet file.

Only headers and footers are read, and what they say is kept in the cache of `datasets`, so that it is read once.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

import numpy as np
from fsspec.core import url_to_fs


if TYPE_CHECKING:
    import datasets

NO_LABEL = np.iinfo(np.int64).min
WINDOW = 4096  # rows of a tar archive that are shuffled among each other
LAYOUT = 1  # of the cached files: a reader of another one makes its own
# What file systems call that which changes with a file.
VERSIONS = ("mtime", "created", "ETag", "etag", "blob_id", "LastModified", "last_modified")


@dataclass(frozen=True)
class ShardIndex:
    """The rows of one shard.

    Args:
        path: of the file, or its address.
        groups: int64 (G,), rows that are best read one after another: the row groups of a parquet file, stretches of
            a tar archive.
        offsets, sizes: int64 (N,), where the image or video of every row lies in a tar archive, in bytes.
        labels: int64 (N,) of a tar archive, `NO_LABEL` where there is none.
        text_offsets, text_sizes: int64 (N, K), where its texts lie in a tar archive, of each kind that was asked for;
            0 where a row has none.
        schema: of a parquet file, as Arrow stores it.

    Example:
        >>> len(ShardIndex("a.parquet", groups=np.array([100, 100, 20])))
        220
    """

    path: str
    groups: np.ndarray
    offsets: np.ndarray | None = None
    sizes: np.ndarray | None = None
    labels: np.ndarray | None = None
    text_offsets: np.ndarray | None = None
    text_sizes: np.ndarray | None = None
    schema: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.groups.sum())

    def features(self) -> "datasets.Features":
        """The columns of a parquet file."""
        import datasets
        import pyarrow as pa

        return datasets.Features.from_arrow_schema(pa.ipc.read_schema(pa.py_buffer(self.schema.tobytes())))


def open_shard(path: str, **options: Any) -> BinaryIO:
    """Open a file, or an address that fsspec knows, for reading; `options` as its `open` takes them."""
    files, inner = url_to_fs(path)
    return files.open(inner, "rb", **options)


def index_shards(paths: Sequence[str], suffixes: Sequence[str], texts: Sequence[str] = ()) -> list[ShardIndex]:
    """Find the rows of shards, several at a time.

    Args:
        paths: from `find_shards`.
        suffixes: of the members of a tar archive that make a row, in small letters, with the dot.
        texts: suffixes of members that are texts of a row, in small letters, without the dot.

    Returns:
        one index for every path.

    Raises:
        FileNotFoundError: shards that do not exist, all of them named.
        ValueError: shards that are damaged or of another form, all of them named.
    """
    from datasets.utils import tqdm

    def attempt(path: str) -> ShardIndex | OSError | ValueError:
        try:
            return _cached(path, suffixes, texts)
        except (OSError, ValueError) as error:  # shown together, below
            return error

    with ThreadPoolExecutor(8) as pool:  # what is far away takes its time
        found = list(tqdm(pool.map(attempt, paths), "Looking into shards", len(paths), leave=False))
    if missing := [path for path, each in zip(paths, found, strict=True) if isinstance(each, FileNotFoundError)]:
        raise FileNotFoundError(f"{len(missing)} of {len(paths)} shards do not exist: {_few(missing)}")
    if broken := [f"{path}: {each}" for path, each in zip(paths, found, strict=True) if isinstance(each, Exception)]:
        raise ValueError(f"{len(broken)} of {len(paths)} shards cannot be used: {_few(broken)}")
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _cached(path: str, suffixes: Sequence[str], texts: Sequence[str]) -> ShardIndex:
    """The index of a shard, from the cache if the file is the one that was looked into."""
    import datasets

    files, inner = url_to_fs(path)
    info = files.info(inner)
    version = [str(info[name]) for name in VERSIONS if name in info]
    address = files.unstrip_protocol(inner)  # absolute, also of a relative path
    key = json.dumps([LAYOUT, address, info["size"], version, sorted(suffixes), *texts])
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_jepa_shards"
    cached = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"
    if cached.exists():
        with np.load(cached) as arrays:
            return ShardIndex(path, **arrays)
    look = _index_parquet if path.endswith(".parquet") else partial(_index_tar, suffixes=suffixes, texts=texts)
    arrays = look(partial(files.open, inner, "rb"), info["size"])
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{uuid4().hex}.tmp"
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, cached)
    finally:
        temporary.unlink(missing_ok=True)
    return ShardIndex(path, **arrays)


# --- parquet ------------------------------------------------------------------------------------------------------


def _index_parquet(open_file: Callable[..., BinaryIO], size: int) -> dict[str, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_file() as file:
        try:
            footer = pq.read_metadata(file)
        except pa.ArrowInvalid as error:
            raise ValueError(f"no parquet file, or a truncated one ({error})") from error
    groups = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    schema = footer.schema.to_arrow_schema().serialize()
    return {"groups": np.array(groups, np.int64), "schema": np.frombuffer(schema, np.uint8)}


# --- tar ----------------------------------------------------------------------------------------------------------


def _index_tar(
    open_file: Callable[..., BinaryIO], size: int, suffixes: Sequence[str], texts: Sequence[str]
) -> dict[str, np.ndarray]:
    rows, seen = [], set()
    # Blocks as small as that: the data between the headers is not wanted.
    with open_file(block_size=2**16) as file:
        try:
            for key, members in _groups(file, size):
                seen |= set(members)
                media = [suffix for suffix in members if f".{suffix.rsplit('.')[-1]}" in suffixes]
                if len(media) > 1:
                    raise ValueError(f"{key} has {len(media)} members to choose from: {', '.join(media)}")
                if media:
                    label = members["cls"][2] if "cls" in members else NO_LABEL
                    beside = [place for text in texts for place in members.get(text, (0, 0))[:2]]
                    rows.append((*members[media[0]][:2], label, *beside))
        except tarfile.TarError as error:
            raise ValueError(f"no tar archive, or compressed (unpack it), or damaged: {error}") from error
    if not rows:
        raise ValueError(f"no member ends in {_few(sorted(suffixes))}, there are {_few(sorted(seen)) or 'none'}")
    offsets, sizes, labels, *beside = np.array(rows, np.int64).T
    groups = np.diff(np.append(np.arange(0, len(rows), WINDOW), len(rows)))
    found = {"groups": groups, "offsets": offsets, "sizes": sizes, "labels": labels}
    if not texts:
        return found
    return found | {"text_offsets": np.stack(beside[0::2], 1), "text_sizes": np.stack(beside[1::2], 1)}


def _groups(file: BinaryIO, size: int):
    """(key, {suffix: (offset, size, label)}) of members that follow each other and differ in their suffix only."""
    current, members = None, {}
    for member in _members(file, size):
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if not member.isreg() or not suffix or not stem:
            continue
        key = f"{folder}/{stem}" if folder else stem
        if key != current or suffix.lower() in members:
            if current is not None:
                yield current, members
            current, members = key, {}
        label = _label(file, member) if suffix.lower() == "cls" else NO_LABEL
        members[suffix.lower()] = (member.offset_data, member.size, label)
    if current is not None:
        yield current, members


def _members(file: BinaryIO, size: int):
    """The headers of an archive that is whole: `tarfile` takes a damaged header for the end of it."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # which would keep them all
            yield member
        file.seek(archive.offset)
        end = file.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE:
        raise ValueError(f"truncated: there is no end of the archive after {size} bytes")
    if any(end):
        raise ValueError(f"damaged: no header of a member at byte {archive.offset}")


def _label(file: BinaryIO, member: tarfile.TarInfo) -> int:
    file.seek(member.offset_data)
    text = file.read(member.size)
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{member.name} holds {text[:20]!r}, not the number of a class") from error


def member_of(data: bytes) -> tarfile.TarInfo:
    """The header of a member of an archive.

    Raises:
        tarfile.HeaderError: there is none.

    Example:
        >>> member_of(tarfile.TarInfo("a.jpg").tobuf()).name
        'a.jpg'
    """
    return tarfile.TarInfo.frombuf(data, tarfile.ENCODING, "surrogateescape")


__all__ = ["NO_LABEL", "ShardIndex", "index_shards", "member_of", "open_shard"]
