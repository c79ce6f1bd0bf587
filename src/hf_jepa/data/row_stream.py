"""Rows of a streamed data set, numbered over workers, in an order that follows from a seed and the epoch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from hf_jepa.data.shared_epoch import EpochDataset
from hf_jepa.data.transforms import sample_rng


@dataclass(frozen=True)
class PendingSample:
    """A row of a stream with all that decides its sample, decoded only on `load()`.

    With several ranks every rank reads the whole stream and keeps its part; so it does not decode the rest.
    """

    row: dict[str, Any]
    sample_index: int
    seed: int
    epoch: int
    read: Callable[[dict[str, Any], int, np.random.Generator], Any]

    def load(self) -> Any:
        """The sample, or why it cannot be read."""
        return self.read(self.row, self.sample_index, sample_rng(self.seed, self.epoch, self.sample_index))


def loaded(samples: Iterable[Any]) -> list[Any]:
    """Samples, of which some may be pending."""
    return [sample.load() if isinstance(sample, PendingSample) else sample for sample in samples]


class RowStream(EpochDataset, IterableDataset):
    """What streams of images, and of images or videos with texts, have in common; their collators read the samples.

    A sample's index is a running number, unique over workers and ranks; an endless stream counts on in every pass, so
    that masks and crops of a row are new each time. With several ranks set `dispatch_batches=False` of accelerate
    (`JepaTrainer` does): its dispatching loader cannot send the names of skipped samples.

    Every rank reads the whole stream and keeps its part; workers share the files of the stream among them, so the
    index of a row depends on the number of workers, and each of them begins its next pass when its own share is over.
    A run that resumes reads all that it skips. `ShardedRows` have none of these limits.

    Args:
        dataset: a `datasets.IterableDataset`.
        read: called as `read(row, index, rng)`, makes a sample.
        seed: of the order and of all that is random in a sample.
        shuffle_buffer: rows among which the next one is drawn at random, anew in every pass; 0 keeps the order.
        endless: begin again after the last row. `Trainer` takes a stream of unknown length to be as long as the run
            and, when it resumes, skips as many batches as it has seen: that is exact for an endless stream alone.

    Raises:
        TypeError: not a `datasets.IterableDataset`.
        ValueError: a negative seed, or, once it is read, an endless stream without rows.
    """

    map_style = "a map-style data set"  # of the same rows

    def __init__(self, dataset: Any, read: Callable, seed: int = 0, shuffle_buffer: int = 0, endless: bool = False):
        import datasets

        if not isinstance(dataset, datasets.IterableDataset):
            raise TypeError(f"expected a datasets.IterableDataset, got {type(dataset).__name__}: use {self.map_style}")
        super().__init__(seed)
        self.dataset, self.read = dataset, read
        self.shuffle_buffer, self.endless = shuffle_buffer, endless

    def check(self, row: dict[str, Any]) -> None:
        """Raise a ValueError where a row is not of the form that is read."""

    def __iter__(self) -> Iterator[PendingSample]:
        # In a worker, datasets itself gives each worker its own shards; the numbers interleave accordingly.
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        index = first
        for epoch in count(self.epoch):
            for row in self._rows(epoch):
                self.check(row)
                yield PendingSample(row, index, self.seed, epoch, self.read)
                index += step
            if index == 0 and self.endless:  # a further worker may have no share in the data
                raise ValueError("the stream has no rows")
            if index == first or not self.endless:
                return

    def _rows(self, epoch: int) -> Iterable[dict[str, Any]]:
        """Not by `set_epoch` of the stream, which workers share, and which they reach at different times."""
        if not self.shuffle_buffer:
            return self.dataset
        generator = np.random.default_rng((self.seed, epoch))
        return self.dataset.shuffle(buffer_size=self.shuffle_buffer, generator=generator)


__all__ = ["PendingSample", "RowStream", "loaded"]
