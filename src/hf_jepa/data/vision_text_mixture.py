"""Batches of clips of one length: the order of a data set that has several lengths, and mixtures of data sets."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler, SequentialSampler

from hf_jepa.data.shard_order import ShardSampler
from hf_jepa.data.weighted_sources import WeightedSources


# Keep the random numbers of orders and chunks apart from those of the samples, which have (seed, epoch, index).
ORDER, CHUNK = 0x66726D73, 0x63686E6B


def frame_count_order(frame_counts: np.ndarray, seed: int, epoch: int, chunk: int) -> np.ndarray:
    """The samples of an epoch, shuffled, so that every chunk has clips of one length.

    Of each length as many samples as do not fill a chunk are left out of an epoch, others in each.

    Args:
        frame_counts: (N,), frames of every sample.
        seed, epoch: that the order follows from.
        chunk: samples; a multiple of the batch size of a process, best the batch size of all.

    Returns:
        int64 (M,), M <= N, M a multiple of `chunk`.

    Raises:
        ValueError: a chunk below 1, or no chunk that can be filled.

    Example:
        >>> order = frame_count_order(np.array([1, 16, 1, 16, 1]), seed=0, epoch=0, chunk=2)
        >>> sorted(np.array([1, 16, 1, 16, 1])[order].reshape(2, 2).tolist())
        [[1, 1], [16, 16]]
    """
    if chunk < 1:
        raise ValueError(f"a chunk has a sample or more, got {chunk}")
    rng = np.random.default_rng((seed, epoch, ORDER))
    chunks = []
    for count in np.unique(frame_counts):
        rows = rng.permutation(np.flatnonzero(frame_counts == count))
        chunks.append(rows[: len(rows) // chunk * chunk].reshape(-1, chunk))
    chunks = np.concatenate(chunks) if chunks else np.empty((0, chunk), np.int64)
    if not len(chunks):
        raise ValueError(f"none of the {len(frame_counts)} samples fill a chunk of {chunk} clips of one length")
    return rng.permutation(chunks).ravel()


class FrameCountSampler(Sampler[int]):
    """`frame_count_order` for a `DataLoader`; the epoch is that of the data set.

    Args:
        dataset: with `frame_counts`, `seed`, `epoch` and `set_epoch`, as `VisionTextDataset`.
        chunk: called at the start of every epoch for that of `frame_count_order`.

    Example:
        >>> from hf_jepa.data.vision_text import VisionTextDataset
        >>> rows = [{"image": "1.jpg", "target": "a cat"}, {"video": "2.mp4", "target": "a dog barks"}]
        >>> sampler = FrameCountSampler(VisionTextDataset(rows * 5), lambda: 5)
        >>> len(sampler), sorted(sampler) == list(range(10))
        (10, True)
    """

    def __init__(self, dataset: Any, chunk: Callable[[], int]):
        self.dataset, self.chunk, self.frame_counts = dataset, chunk, np.asarray(dataset.frame_counts)

    def __iter__(self) -> Iterator[int]:
        dataset = self.dataset
        yield from frame_count_order(self.frame_counts, dataset.seed, dataset.epoch, self.chunk()).tolist()

    def __len__(self) -> int:
        chunk = self.chunk()
        return int(sum(count // chunk * chunk for count in np.unique(self.frame_counts, return_counts=True)[1]))

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)


class MixedVisionText(WeightedSources):
    """A mixture of data sets by weight, in chunks of clips of one length: item i is a function of (seed, epoch, i).

    Rows are drawn as `WeightedSources` does it, but the length of the clips is drawn for a chunk, and the sources of
    its items among those of that length. So every source has the share of its weight, and a batch that is read in
    order has one length.

    Args:
        sources: `VisionTextDataset`s or others with `frame_counts`, each of one clip length.
        weights: one positive number per source, relative to each other.
        chunk: items of one clip length; a multiple of the batch size of a process, best the batch size of all.
        length: items of an epoch; the sum of the lengths of the sources unless given.
        seed: of the draws.

    Raises:
        ValueError: as `WeightedSources`; a source of several clip lengths, or a chunk below 1.

    Example:
        >>> from hf_jepa.data.digit_stories import DigitStories
        >>> sources = [DigitStories(100, num_frames=4), DigitStories(100, num_frames=8, task="question")]
        >>> mixture = MixedVisionText(sources, weights=[3, 1], chunk=10, length=1000)
        >>> counts = mixture.frame_counts.reshape(-1, 10)
        >>> bool((counts == counts[:, :1]).all()), bool(len(mixture[7]["video"]) == counts[0, 7])
        (True, True)
    """

    def __init__(
        self,
        sources: Sequence[Any],
        weights: Sequence[float],
        chunk: int,
        length: int | None = None,
        seed: int = 0,
    ):
        super().__init__(sources, weights, length, seed)
        if chunk < 1:
            raise ValueError(f"a chunk has an item or more, got {chunk}")
        counts = [_lengths(source) for source in sources]
        if several := [number for number, found in enumerate(counts) if len(found) > 1]:
            raise ValueError(
                f"source {several[0]} has clips of {counts[several[0]].tolist()} frames: open its images and its "
                "videos as two sources, by media='image' and media='video'"
            )
        self.chunk = chunk
        self._frames, kind_of = np.unique(np.concatenate(counts), return_inverse=True)
        shares = np.diff(self._limits, prepend=0.0)
        self._kind_limits = np.cumsum(np.bincount(kind_of, shares))
        self._members = [np.flatnonzero(kind_of == kind) for kind in range(len(self._frames))]
        self._member_limits = [np.cumsum(shares[members]) / shares[members].sum() for members in self._members]

    @property
    def frame_counts(self) -> np.ndarray:
        """int64 (length,), frames of every item of the present epoch."""
        kinds = [self._kind(chunk) for chunk in range(-(-self.length // self.chunk))]
        return self._frames[kinds].repeat(self.chunk)[: self.length]

    def _kind(self, chunk: int) -> int:
        """Which of the clip lengths a chunk has."""
        return _place(np.random.default_rng((self.seed, self.epoch, CHUNK, chunk)), self._kind_limits)

    def _draw(self, rng: np.random.Generator, index: int) -> tuple[int, int]:
        kind = self._kind(index // self.chunk)
        source = int(self._members[kind][_place(rng, self._member_limits[kind])])
        return source, int(rng.integers(len(self.sources[source])))


def _lengths(dataset: Any) -> np.ndarray:
    """The different numbers of frames of a data set."""
    counts = dataset.frame_counts
    return np.unique(counts[:1] if counts.strides == (0,) else counts)


def _place(rng: np.random.Generator, limits: np.ndarray) -> int:
    return min(int(np.searchsorted(limits, rng.random(), side="right")), len(limits) - 1)


def vision_text_sampler(
    dataset: Any, batch_size: Callable[[], int], chunk: Callable[[], int] | None = None
) -> Sampler[int] | None:
    """The order in which batches of a data set have clips of one length.

    Args:
        dataset: shards, rows of one or several clip lengths, or a mixture.
        batch_size: called for that of a process, which is the chunk of `ShardSampler`.
        chunk: called for that of `FrameCountSampler`, best the batch size of all processes, so that all of them have
            clips of one length in a step; `batch_size` unless given.

    Returns:
        a sampler; None where any order will do.

    Raises:
        ValueError: a mixture whose chunks are no multiple of the batch size.

    Example:
        >>> vision_text_sampler([1, 2, 3], lambda: 2) is None
        True
    """
    if isinstance(dataset, MixedVisionText):
        if dataset.chunk % batch_size():
            raise ValueError(f"chunk={dataset.chunk} of the mixture is no multiple of the batch size {batch_size()}")
        return SequentialSampler(dataset)  # its items are drawn at random
    if (sampler := ShardSampler.of(dataset, batch_size)) is not None:
        return sampler
    if hasattr(dataset, "frame_counts") and len(_lengths(dataset)) > 1:
        return FrameCountSampler(dataset, chunk or batch_size)
    return None


__all__ = ["FrameCountSampler", "MixedVisionText", "frame_count_order", "vision_text_sampler"]
