"""Rows of a streamed data set, numbered over workers, in an order that follows from a seed and the epoch."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from hf_jepa.data.shared_epoch import EpochDataset


class RowStream(EpochDataset, IterableDataset):
    """What streams of images, and of images or videos with texts, have in common. Sub-classes implement `pending`.

    A sample's index is a running number, unique over workers and ranks; an endless stream counts on in every pass, so
    that masks and crops of a row are new each time. With several ranks set `dispatch_batches=False` of accelerate
    (`JepaTrainer` does): its dispatching loader cannot send the names of skipped samples.

    Every rank reads the whole stream and keeps its part; workers share the files of the stream among them, so the
    index of a row depends on the number of workers, and each of them begins its next pass when its own share is over.
    A run that resumes reads all that it skips. `ShardedRows` have none of these limits.

    Args:
        dataset: a `datasets.IterableDataset`.
        seed: of the order and of all that is random in a sample.
        shuffle_buffer: rows among which the next one is drawn at random, anew in every pass; 0 keeps the order.
        endless: begin again after the last row. `Trainer` takes a stream of unknown length to be as long as the run
            and, when it resumes, skips as many batches as it has seen: that is exact for an endless stream alone.

    Raises:
        TypeError: not a `datasets.IterableDataset`.
        ValueError: a negative seed, or, once it is read, an endless stream without rows.
    """

    map_style = "a map-style data set"  # of the same rows

    def __init__(self, dataset: Any, seed: int = 0, shuffle_buffer: int = 0, endless: bool = False):
        import datasets

        if not isinstance(dataset, datasets.IterableDataset):
            raise TypeError(f"expected a datasets.IterableDataset, got {type(dataset).__name__}: use {self.map_style}")
        super().__init__(seed)
        self.dataset = dataset
        self.shuffle_buffer, self.endless = shuffle_buffer, endless

    def pending(self, row: dict[str, Any], index: int, epoch: int) -> Any:
        """A sample that its collator decodes with `load()`."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        # In a worker, datasets itself gives each worker its own shards; the numbers interleave accordingly.
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        index = first
        for epoch in count(self.epoch):
            for row in self._rows(epoch):
                yield self.pending(row, index, epoch)
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


__all__ = ["RowStream"]
