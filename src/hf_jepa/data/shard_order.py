"""The order of an epoch over shards: shuffled, and yet every process and worker reads shards of its own."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from hf_jepa.data.shards import ShardedRows


MOST_LANES = 1024
# Keeps the random numbers of the order apart from those of the samples, which have (seed, epoch, index).
ORDER = 0x6F72646572


def default_lanes(shards: int) -> int:
    """The largest power of two that is not above the number of shards, and at most 1024.

    Example:
        >>> [default_lanes(shards) for shards in (0, 1, 100, 5000)]
        [1, 1, 64, 1024]
    """
    return min(MOST_LANES, 1 << max(0, shards.bit_length() - 1))


def lane_cuts(rows: int, chunk: int, lanes: int) -> list[int]:
    """Where the lanes begin and end, so that taking a chunk of each in turn leaves only the last chunk incomplete.

    Returns:
        lanes + 1 positions, from 0 to `rows`.

    Example:
        >>> lane_cuts(rows=23, chunk=4, lanes=3)  # chunks per lane: 2, 2 and a rest of 3, 1
        [0, 8, 16, 23]
        >>> lane_cuts(rows=23, chunk=4, lanes=4)
        [0, 8, 15, 19, 23]
    """
    chunks, rest = divmod(rows, chunk)
    each, longer = divmod(chunks, lanes)
    sizes = [(each + (lane < longer)) * chunk + (lane == longer) * rest for lane in range(lanes)]
    return [0, *np.cumsum(sizes).tolist()]


def shard_order(
    groups: Sequence[np.ndarray], seed: int, epoch: int, chunk: int, lanes: int | None = None
) -> Iterator[int]:
    """The rows of an epoch, each once.

    The shards are put into a random order, in each of them its groups, and in each group its rows. What results is cut
    into `lanes` parts of equal length, and the order takes `chunk` rows of the first part, then of the second, and so
    on. Where a chunk is a batch, batch i comes from part i % lanes; and since accelerate gives batch i to process
    i % processes, and the loader of a process its batches to its workers in turn, a worker reads parts of its own
    wherever processes * workers divides `lanes`. Nothing in the order depends on the number of either.

    Args:
        groups: of every shard the numbers of rows that are best read one after another.
        seed, epoch: that the order follows from.
        chunk: rows.
        lanes: parts; `default_lanes` unless given.

    Yields:
        positions of rows, counted over all shards.

    Raises:
        ValueError: no rows in a chunk, or no lane.

    Example:
        >>> shards = [np.array([3, 3]), np.array([6])]
        >>> list(shard_order(shards, seed=0, epoch=0, chunk=2))  # two lanes, of a shard each
        [3, 4, 9, 10, 5, 2, 8, 11, 1, 0, 6, 7]
    """
    lanes = default_lanes(len(groups)) if lanes is None else lanes
    if chunk < 1 or lanes < 1:
        raise ValueError(f"an order needs chunks of a row or more and at least one lane, got {chunk} and {lanes}")
    rng = np.random.default_rng((seed, epoch, ORDER))
    number_of_first = np.cumsum([0, *map(len, groups)])  # of the groups of a shard, among all groups
    plan = [number_of_first[shard] + rng.permutation(len(groups[shard])) for shard in rng.permutation(len(groups))]
    plan = np.concatenate([*plan, np.empty(0, np.int64)]).astype(np.int64)
    sizes = np.concatenate([*groups, np.empty(0, np.int64)]).astype(np.int64)
    first_rows = np.cumsum(sizes) - sizes
    ends = np.cumsum(sizes[plan])  # in the order of the plan

    def part(start: int, stop: int) -> Iterator[int]:
        for place in range(int(np.searchsorted(ends, start, side="right")), len(plan)):
            if start == stop:
                return
            group, until = plan[place], min(stop, int(ends[place]))
            rows = first_rows[group] + np.random.default_rng((seed, epoch, ORDER, group)).permutation(sizes[group])
            passed = int(ends[place] - sizes[group])
            yield from rows[start - passed : until - passed].tolist()
            start = until

    parts = [part(*cut) for cut in pairwise(lane_cuts(int(sizes.sum()), chunk, lanes))]
    while taken := list(chain.from_iterable(islice(part, chunk) for part in parts)):
        yield from taken


class ShardSampler(Sampler[int]):
    """The order of a data set of shards, for a `DataLoader`; the epoch is that of the data set.

    Args:
        dataset: an `ImageDataset` or `VideoDataset` of `ShardedRows`.
        chunk: called at the start of every epoch for that of `shard_order`, best the batch size of a process; that of
            the rows' options takes its place.

    Example:
        >>> ShardSampler.of([1, 2, 3], lambda: 2) is None  # no shards
        True
    """

    def __init__(self, dataset: Any, chunk: Callable[[], int]):
        self.dataset, self.rows, self.chunk = dataset, dataset.dataset, chunk

    @classmethod
    def of(cls, dataset: Any, chunk: Callable[[], int]) -> "ShardSampler | None":
        """The sampler of a data set, if it is one of shards."""
        return cls(dataset, chunk) if isinstance(getattr(dataset, "dataset", None), ShardedRows) else None

    def __iter__(self) -> Iterator[int]:
        options, dataset = self.rows.options, self.dataset
        return shard_order(self.rows.groups, dataset.seed, dataset.epoch, options.chunk or self.chunk(), options.lanes)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)


__all__ = ["ShardSampler", "default_lanes", "lane_cuts", "shard_order"]
