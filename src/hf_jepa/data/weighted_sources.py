"""Several data sets as one, drawn from by weight."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_jepa.data.decoding import UndecodableImage
from hf_jepa.data.shared_epoch import RowDataset


class WeightedSources(RowDataset):
    """A mixture of data sets: item i of an epoch is a pure function of (seed, epoch, i).

    As in V-JEPA 2 (2506.09985, table of data weights; the official `DistributedWeightedSampler`) rows are drawn with
    replacement, a row of source s with probability weight[s] / len(source[s]), normalised; so a source has the share
    of its weight, whatever its size. A row drawn twice gets other random numbers each time. Every source brings its
    own clip length and transform. Labels are left out, because classes of different sources do not go together.

    Args:
        sources: map-style data sets. Those with a method `sample(index, rng)`, as `VideoDataset`, get the random
            numbers of the item; others are asked for `source[index]`.
        weights: one positive number per source, relative to each other.
        length: items of an epoch; the sum of the lengths of the sources unless given.
        seed: of the draws.

    Raises:
        ValueError: numbers of sources and weights that differ, a weight that is not positive, an empty source, a
            length below 1.

    Example:
        >>> videos = [{"pixel_values_videos": i, "sample_index": i} for i in range(3)]
        >>> mixture = WeightedSources([videos, videos], weights=[0.9, 0.1], length=1000)
        >>> shares = np.bincount([mixture.draw(i)[0] for i in range(1000)]) / 1000
        >>> bool(abs(shares[0] - 0.9) < 0.03), mixture[5]["sample_index"]
        (True, 5)
    """

    items = "items"

    def __init__(self, sources: Sequence[Any], weights: Sequence[float], length: int | None = None, seed: int = 0):
        if not sources or len(sources) != len(weights):
            raise ValueError(f"every source needs a weight: got {len(sources)} sources and {len(weights)} weights")
        if wrong := [weight for weight in weights if not (np.isfinite(weight) and weight > 0)]:
            raise ValueError(f"weights must be positive, got {wrong[0]}")
        if empty := [i for i, source in enumerate(sources) if not len(source)]:
            raise ValueError(f"source {empty[0]} is empty")
        super().__init__(seed)
        self.sources = list(sources)
        self.length = sum(map(len, sources)) if length is None else length
        if self.length < 1:
            raise ValueError(f"an epoch needs at least one item, got length={length}")
        self._limits = np.cumsum(np.asarray(weights, np.float64) / np.sum(weights))

    def __len__(self) -> int:
        return self.length

    def draw(self, index: int) -> tuple[int, int]:
        """(source, row) of an item in the present epoch."""
        return self._draw(self.rng(index), index)

    def _draw(self, rng: np.random.Generator, index: int) -> tuple[int, int]:
        """(source, row) of item `index`, whose random numbers are `rng`."""
        source = min(int(np.searchsorted(self._limits, rng.random(), side="right")), len(self.sources) - 1)
        return source, int(rng.integers(len(self.sources[source])))

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any] | UndecodableImage:
        """The sample of an item, with the item's number as `sample_index`."""
        number, row = self._draw(rng, index)
        source = self.sources[number]
        sample = source.sample(row, rng) if hasattr(source, "sample") else source[row]
        if isinstance(sample, UndecodableImage):
            return replace(sample, sample_index=index)
        return {name: value for name, value in sample.items() if name != "labels"} | {"sample_index": index}

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of an epoch, here and in the sources, in running persistent workers too."""
        super().set_epoch(epoch)
        for source in self.sources:
            if hasattr(source, "set_epoch"):
                source.set_epoch(epoch)


__all__ = ["WeightedSources"]
