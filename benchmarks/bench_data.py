"""Reading shards: rows of tar archives in the order of training, beside what streams the same files in `datasets`."""

import io
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
from timing import Row, medians

from hf_jepa.data.shard_order import shard_order
from hf_jepa.data.shards import ShardedRows


SHARDS, ROWS, BYTES = 8, 500, 50_000  # of an image that is stored with 224 pixels


def run(quick: bool) -> Iterator[Row]:
    """Microseconds per row, without decoding: in the order of the files, and shuffled as in training."""
    rows, repeats = (20, 1) if quick else (ROWS, 7)
    before = datasets.config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        try:
            yield from _rows(_write(Path(folder), rows), rows, repeats)
        finally:
            datasets.config.HF_DATASETS_CACHE = before


def _rows(paths: list[str], rows: int, repeats: int) -> Iterator[Row]:
    sharded = ShardedRows(paths)
    count = len(sharded)
    stream = datasets.load_dataset("webdataset", data_files=paths, split="train", streaming=True)
    stream = stream.cast_column("jpg", datasets.Image(decode=False))
    order = list(shard_order(sharded.groups, seed=0, epoch=0, chunk=16))
    read, shuffled, streamed, buffered = medians(
        lambda: [sharded[index] for index in range(count)],
        lambda: [sharded[index] for index in order],
        lambda: list(stream),
        lambda: list(stream.shuffle(seed=0, buffer_size=rows)),
        repeats=repeats,
    )
    each = 1000 / count  # milliseconds of all to microseconds of one
    beside = "datasets' stream"
    yield Row("reading tar archives in their order, per row", beside, each * read, each * streamed, 1.0, "us")
    yield Row("reading tar archives shuffled, per row", beside, each * shuffled, each * buffered, 1.0, "us")


def _write(folder: Path, rows: int) -> list[str]:
    data = np.random.default_rng(0).bytes(BYTES)
    paths = [folder / f"{shard}.tar" for shard in range(SHARDS)]
    for path in paths:
        with tarfile.open(path, "w") as archive:
            for row in range(rows):
                for name, content in ((f"{row:06}.jpg", data), (f"{row:06}.cls", b"3")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return [str(path) for path in paths]
