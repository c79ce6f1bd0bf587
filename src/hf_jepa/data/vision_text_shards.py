"""Images or videos with texts in shards: tar archives in the form of WebDataset, and parquet files."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_jepa.data.shard_index import ShardIndex
from hf_jepa.data.shard_reads import ShardError
from hf_jepa.data.shards import ShardedRows, ShardOptions
from hf_jepa.data.vision_text_columns import (
    QUERY_NAMES,
    TARGET_NAMES,
    find_text_column,
    find_vision_text_columns,
)


if TYPE_CHECKING:
    import datasets


class VisionTextShards(ShardedRows):
    """The rows of shards with their texts: {"image" or "video", "query", "target"}.

    In a tar archive the texts of `7.mp4` are `7.txt`, its target, and `7.json`, of which `query` (or `question`,
    `prompt`) is the query and, where there is no `7.txt`, `target` (or `caption`, `text`, `answer`) the target. A text
    that cannot be read has a `ShardError` as target.

    Args:
        shards: paths or addresses, see `find_shards`.
        media: "image" or "video".
        media_column: of parquet files.
        query_column, target_column: of parquet files, or the names in the .json of archives.
        options: see `ShardOptions`.

    Raises:
        FileNotFoundError: shards that do not exist.
        ValueError: shards that are damaged, without rows or texts, or of different columns.

    Example:
        >>> import io, tarfile, tempfile
        >>> path = tempfile.mkdtemp() + "/a.tar"
        >>> with tarfile.open(path, "w") as archive:
        ...     for name, data in (("7.jpg", b"a picture"), ("7.txt", b"a seven")):
        ...         member = tarfile.TarInfo(name)
        ...         member.size = len(data)
        ...         archive.addfile(member, io.BytesIO(data))
        >>> row = VisionTextShards([path], "image")[0]
        >>> row["image"]["bytes"], row["query"], row["target"]
        (b'a picture', None, 'a seven')
    """

    text_suffixes = ("txt", "json")

    def __init__(
        self,
        shards: Sequence[str],
        media: str,
        media_column: str | None = None,
        query_column: str | None = None,
        target_column: str | None = None,
        options: ShardOptions | None = None,
    ):
        self.query_column, self.target_column = query_column, target_column
        super().__init__(shards, media, media_column, options=options)
        if not self._columns and not any(shard.text_offsets.any() for shard in self.shards):
            raise ValueError(f"{self.shards[0].path} holds no text: a target is a .txt or .json beside its {media}")

    @property
    def is_image(self) -> np.ndarray:
        """bool (N,), which rows hold images."""
        return np.broadcast_to(self.media == "image", len(self))

    def _choose_columns(
        self, features: "datasets.Features", media_column: str | None, label_column: str | None
    ) -> dict[str, str]:
        found = find_vision_text_columns(features, self.media, media_column, self.query_column, self.target_column)
        columns = {self.media: getattr(found, self.media), "query": found.query, "target": found.target}
        return {use: name for use, name in columns.items() if name is not None}

    def _row_columns(self) -> list[str]:
        return list(self._columns) if self._columns else [self.media, "query", "target"]

    def _row(self, number: int, shard: ShardIndex, row: int) -> dict[str, Any]:
        values = super()._row(number, shard, row)
        if shard.schema is not None or not {"query", "target"} & set(self.column_names):
            return values
        values |= self._texts(shard, row)
        return {name: values[name] for name in self.column_names}

    def _texts(self, shard: ShardIndex, row: int) -> dict[str, Any]:
        found = {}
        places = zip(self.text_suffixes, shard.text_offsets[row].tolist(), shard.text_sizes[row].tolist(), strict=True)
        for suffix, offset, size in places:
            if offset:
                member = self._member(shard, offset, size)
                if isinstance(member, ShardError):
                    return {"query": None, "target": member}
                found[suffix] = member
        try:
            return self._read_texts({suffix: member["bytes"].decode() for suffix, member in found.items()})
        except ValueError as error:  # also what is no JSON or no UTF-8
            name = found["json" if "json" in found else "txt"]["path"]
            return {"query": None, "target": ShardError(name, str(error))}

    def _read_texts(self, found: dict[str, str]) -> dict[str, Any]:
        record = json.loads(found.get("json", "{}"))
        if not isinstance(record, dict):
            raise ValueError(f"must be a JSON object, got {record!r:.80}")
        query = find_text_column(record, QUERY_NAMES, self.query_column, "query_column")
        texts = {"query": record[query] if query else None, "target": found.get("txt")}
        if "txt" not in found or self.target_column is not None:
            target = find_text_column(record, TARGET_NAMES, self.target_column, "target_column")
            texts["target"] = record[target] if target else None
        return texts


__all__ = ["VisionTextShards"]
