"""Rows of images or videos in shards, each of which can be read at any time: tar archives and parquet files."""

import os
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hf_jepa.data.columns import find_image_column, find_label_column, is_text
from hf_jepa.data.shard_index import NO_LABEL, ShardIndex, index_shards, member_of
from hf_jepa.data.shard_reads import OpenFiles, PatientReader, ReadLimits, ShardError
from hf_jepa.data.shared_epoch import SharedEpoch
from hf_jepa.data.video_columns import find_video_column
from hf_jepa.data.video_readers import VIDEO_SUFFIXES


if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

KEPT_BYTES = 2**28  # of the row groups of parquet files that a process keeps, beside the latest one


@dataclass(frozen=True)
class ShardOptions:
    """How shards are read, and in which order.

    Args:
        limits: of time and attempts of a read.
        chunk, lanes: of `shard_order`; the batch size of a process and `default_lanes` unless given.

    Example:
        >>> ShardOptions(chunk=8).limits.timeout
        60.0
    """

    limits: ReadLimits = field(default_factory=ReadLimits)
    chunk: int | None = None
    lanes: int | None = None

    def __post_init__(self):
        if min(self.chunk or 1, self.lanes or 1) < 1 or 0 in (self.chunk, self.lanes):
            raise ValueError(f"chunk and lanes must be 1 or more, got {self.chunk} and {self.lanes}")


class ShardedRows(Sequence):
    """The rows of shards: {"image": {"bytes", "path"}, "label"}, or "video" in the place of "image".

    In a tar archive in the form of WebDataset a row is the members that have a name in common up to the first dot: the
    image or video, and `cls` with the number of its class. Where they lie is looked up once, see `index_shards`, so
    any row can be read at any time: an epoch has its order from `ShardSampler`, without a buffer, and a run that
    resumes reads nothing of what it has seen. Of a parquet file a row group is read at a time, and kept for a while.

    A shard that cannot be read, after all attempts, does not raise: its rows have a `ShardError` as image or video,
    until the epoch changes, when it is tried anew.

    Args:
        shards: paths or addresses, see `find_shards`.
        media: "image" or "video".
        media_column, label_column: of parquet files; found as `load_images` and `load_videos` do unless given.
        options: see `ShardOptions`.

    Attributes:
        groups: of every shard the numbers of rows that are best read one after another.
        column_names: of a row.

    Raises:
        FileNotFoundError: shards that do not exist.
        ValueError: shards that are damaged, without rows, or of different columns.

    Example:
        >>> import io, tempfile
        >>> path = tempfile.mkdtemp() + "/a.tar"
        >>> with tarfile.open(path, "w") as archive:
        ...     for name, data in (("7.jpg", b"a picture"), ("7.cls", b"3")):
        ...         member = tarfile.TarInfo(name)
        ...         member.size = len(data)
        ...         archive.addfile(member, io.BytesIO(data))
        >>> rows = ShardedRows([path])
        >>> len(rows), rows[0]["image"]["bytes"], rows[0]["label"]
        (1, b'a picture', 3)
    """

    text_suffixes: tuple[str, ...] = ()  # of members of tar archives that are looked up beside the media

    def __init__(
        self,
        shards: Sequence[str],
        media: str = "image",
        media_column: str | None = None,
        label_column: str | None = None,
        options: ShardOptions | None = None,
    ):
        options = options or ShardOptions()
        suffixes = Image.registered_extensions() if media == "image" else VIDEO_SUFFIXES
        self.media, self.options = media, options
        self.shards = index_shards(shards, tuple(suffixes), self.text_suffixes)
        self.groups = [shard.groups for shard in self.shards]
        self._ends = np.cumsum([len(shard) for shard in self.shards])
        if not len(self):
            raise ValueError(f"{shards[0] if shards else 'nothing'}: the shards have no rows")
        self._columns = self._find_columns(media_column, label_column)
        self.column_names = self._row_columns()
        self._read = PatientReader(options.limits)
        self._epoch = SharedEpoch(0)
        self._failed: dict[int, tuple[int, ShardError]] = {}  # shard -> when and why
        self._kept: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()  # row groups

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict(), "_failed": {}}

    # --- columns --------------------------------------------------------------------------------------------------

    def _find_columns(self, media_column: str | None, label_column: str | None) -> dict[str, str]:
        """Names of the columns of parquet files, by what they are for."""
        files = [shard for shard in self.shards if shard.schema is not None]
        if not files:
            if media_column or label_column:
                raise ValueError(f"{self.shards[0].path} has no columns: leave out {media_column or label_column!r}")
            return {}
        if len(files) < len(self.shards):
            raise ValueError("some shards are tar archives and some parquet files: name shards of one kind")
        features = files[0].features()
        found = self._choose_columns(features, media_column, label_column)
        for shard in files[1:]:
            others = shard.features()
            if unlike := [name for name in found.values() if others.get(name) != features[name]]:
                raise ValueError(
                    f"{shard.path} has another schema than {files[0].path}: its {unlike[0]!r} is "
                    f"{others.get(unlike[0])}, not {features[unlike[0]]}"
                )
        return found

    def _choose_columns(
        self, features: "datasets.Features", media_column: str | None, label_column: str | None
    ) -> dict[str, str]:
        find = find_image_column if self.media == "image" else find_video_column
        found = {self.media: find(features, media_column), "label": find_label_column(features, label_column)}
        found = {use: name for use, name in found.items() if name is not None}
        if "label" in found and is_text(features[found["label"]]):
            if label_column is not None:
                raise ValueError(
                    f"the labels in {label_column!r} are text: store the numbers of the classes in shards"
                )
            del found["label"]
        return found

    def _row_columns(self) -> list[str]:
        return [self.media, "label"] if self._has_labels() else [self.media]

    def _has_labels(self) -> bool:
        if self._columns:
            return "label" in self._columns
        return any((shard.labels != NO_LABEL).any() for shard in self.shards)

    @property
    def labels(self) -> list[int | None] | None:
        """Label of every row (None where it has none), without reading an image; None without labels."""
        if "label" not in self.column_names:
            return None
        if not self._columns:
            labels = np.concatenate([shard.labels for shard in self.shards])
            return [None if label == NO_LABEL else label for label in labels.tolist()]
        return [label for number in range(len(self.shards)) for label in self._label_column(number)]

    def _label_column(self, number: int) -> list[int | None]:
        import pyarrow.parquet as pq

        shard, name = self.shards[number], self._columns["label"]
        table = self._read(
            shard.path, lambda files: files.get(shard.path, pq.ParquetFile).read([name], use_threads=False)
        )
        return table[name].to_pylist()

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in the order of their numbers, where parquet files know them."""
        return getattr(self.shards[0].features()[self._columns["label"]], "names", None) if self._columns else None

    def select_columns(self, names: str | Sequence[str]) -> "ShardedRows":
        """The same rows with some of the columns."""
        names = [names] if isinstance(names, str) else list(names)
        if unknown := set(names) - set(self.column_names):
            raise ValueError(f"{sorted(unknown)} are not among the columns {self.column_names}")
        selected = object.__new__(type(self))
        selected.__dict__ |= self.__dict__ | {"column_names": names}
        return selected

    # --- rows -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, for which shards that could not be read are tried anew, in running workers too."""
        self._epoch.set(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} is out of range for {len(self)} rows")
        index %= len(self)
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self.shards[number]
        row = index - int(self._ends[number]) + len(shard)
        epoch = self._epoch.get()
        failed_in, error = self._failed.get(number, (None, None))
        if failed_in != epoch:
            try:
                return self._row(number, shard, row)
            except ShardError as reason:
                error = reason
                self._failed[number] = epoch, error
        values = {self.media: error}
        return {name: values.get(name) for name in self.column_names}

    def _row(self, number: int, shard: ShardIndex, row: int) -> dict[str, Any]:
        if shard.schema is not None:
            return self._parquet_row(number, shard, row)
        values: dict[str, Any] = {}
        if self.media in self.column_names:
            values[self.media] = self._member(shard, int(shard.offsets[row]), int(shard.sizes[row]))
        if "label" in self.column_names:
            values["label"] = None if shard.labels[row] == NO_LABEL else int(shard.labels[row])
        return values

    def _member(self, shard: ShardIndex, offset: int, size: int) -> dict[str, Any] | ShardError:
        """A member of a tar archive, whose header tells whether it is the one that was indexed."""
        start = offset - tarfile.BLOCKSIZE
        data = self._read(shard.path, partial(_read_bytes, shard.path, start, tarfile.BLOCKSIZE + size))
        try:
            member = member_of(data[: tarfile.BLOCKSIZE])
        except tarfile.HeaderError as error:
            return ShardError(shard.path, f"damaged or overwritten at byte {start} ({error})")
        if member.size != size:
            return ShardError(shard.path, f"no longer the archive of the start: {member.name} has {member.size} bytes")
        return {"bytes": data[tarfile.BLOCKSIZE :], "path": f"{shard.path}/{member.name}"}

    def _parquet_row(self, number: int, shard: ShardIndex, row: int) -> dict[str, Any]:
        ends = np.cumsum(shard.groups)
        group = int(np.searchsorted(ends, row, side="right"))
        table = self._row_group(number, shard, group)
        place = row - int(ends[group]) + int(shard.groups[group])
        values = {use: table[name][place].as_py() for use, name in self._columns.items() if use in self.column_names}
        if self.media in values:
            values[self.media] = self._media(shard, values[self.media], row)
        return values

    def _media(self, shard: ShardIndex, value: Any, row: int) -> Any:
        """Named by its place, because of an embedded file its own name would not find it."""
        if isinstance(value, dict) and value.get("bytes") is None:
            return value
        data = value["bytes"] if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            return value
        name = os.path.splitext((isinstance(value, dict) and value.get("path")) or "")[1]
        return {"bytes": data, "path": f"{shard.path}/{row}{name}"}

    def _row_group(self, number: int, shard: ShardIndex, group: int) -> "pa.Table":
        if (number, group) not in self._kept:
            columns = [self._columns[use] for use in self.column_names]
            table = self._read(shard.path, partial(_read_row_group, shard.path, group, columns))
            if len(table) != shard.groups[group]:
                raise ShardError(
                    shard.path, f"no longer the file of the start: row group {group} has {len(table)} rows"
                )
            self._kept[number, group] = table
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end((number, group))
        return self._kept[number, group]


def _read_bytes(path: str, start: int, size: int, files: OpenFiles) -> bytes:
    file = files.get(path)
    file.seek(start)
    data = file.read(size)
    if len(data) < size:
        raise EOFError(f"truncated: {size} bytes should follow byte {start}, there are {len(data)}")
    return data


def _read_row_group(path: str, group: int, columns: list[str], files: OpenFiles) -> "pa.Table":
    import pyarrow.parquet as pq

    return files.get(path, pq.ParquetFile).read_row_group(group, columns=columns, use_threads=False)


__all__ = ["ShardError", "ShardOptions", "ShardedRows"]
