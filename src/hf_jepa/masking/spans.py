"""Spans of time steps or tokens: the masks of data2vec for speech and text.

They mark places that the encoder sees as mask tokens, in place: a bool tensor, not lists of indices.
"""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch

from hf_jepa.masking.counter_rng import hash_integers, uniform
from hf_jepa.masking.masks import batch_indices


_COUNT, _STARTS = 0, 1  # separate streams of random numbers


@dataclass(frozen=True)
class SpanMaskSampler:
    """Masks of spans of one length, which may overlap, from (seed, epoch, dataset index) alone.

    The recipes of data2vec (arXiv 2202.03555) are `SpanMaskSampler(0.65, 10)` for speech, which masks about half of
    the frames, and `SpanMaskSampler(0.35, 4)` for text.

    Unlike the official code, a mask does not depend on the other samples of the batch (there each is thinned out to
    the fewest frames of any, "require_same_masks"), spans lie within the sequence and reach its end, and what must not
    be masked, such as padding or special tokens, never is.

    Args:
        prob: sum of the lengths of all spans, as a share of the places that may be masked.
        length: places of a span; a sequence with fewer is masked as one span of half its places, rounded up.
        min_spans: spans that every sequence gets.
        seed: another seed, other masks.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> import torch
        >>> sampler = SpanMaskSampler(0.35, 4)
        >>> maskable = torch.ones(2, 40, dtype=torch.bool)
        >>> maskable[1, 30:] = False  # padded
        >>> masks = sampler(torch.tensor([5, 17]), maskable, step=0)
        >>> masks.shape, bool(masks[1, 30:].any())
        (torch.Size([2, 40]), False)
        >>> torch.equal(sampler(torch.tensor([17]), maskable[1:, :30], step=9), masks[1:, :30])
        True
    """

    prob: float
    length: int
    _: KW_ONLY
    min_spans: int = 1
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.prob <= 1:
            raise ValueError(f"prob must be in (0, 1], got {self.prob}")
        for name in ("length", "min_spans"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def __call__(
        self, sample_index: torch.Tensor, maskable: torch.Tensor, *, step: int, epoch: int = 0
    ) -> torch.Tensor:
        """Draw the masks of one batch.

        Args:
            sample_index: LongTensor (B,), the dataset index of each sequence.
            maskable: BoolTensor (B, T), True where a place may be masked: no padding, no special token. Spans count
                these places only, so what is not maskable lengthens the span that it lies in.
            step: not used; the dataset index and the epoch name a mask.
            epoch: pass over the data.

        Returns:
            BoolTensor (B, T) on the CPU, True where a place is masked.

        Raises:
            ValueError: shapes that do not go together, or a sequence with nothing to mask.
        """
        index = batch_indices(sample_index)
        if maskable.dtype != torch.bool or maskable.ndim != 2 or len(maskable) != len(index):
            raise ValueError(
                f"maskable is {tuple(maskable.shape)} of {maskable.dtype}, expected a BoolTensor of "
                f"({len(index)}, places)"
            )
        places = maskable.cpu().numpy()
        if not places.any(axis=1).all():
            raise ValueError(f"sequence {np.flatnonzero(~places.any(axis=1))[0]} of the batch has nothing to mask")
        masks = np.zeros_like(places)
        for row, key in enumerate(hash_integers(self.seed, epoch, index)):
            available = np.flatnonzero(places[row])
            masks[row, available[self._spans(key, len(available))]] = True
        return torch.from_numpy(masks)

    def _spans(self, key: np.ndarray, total: int) -> np.ndarray:
        """Places of all spans in a sequence of `total`, with repetitions where spans overlap."""
        length = self.length if self.length <= total else -(-total // 2)
        starts = total - length + 1
        # The fraction of a span is drawn, so that the mean over sequences is what was asked for.
        wanted = int(self.prob * total / self.length + uniform(key, _COUNT))
        count = min(max(wanted, self.min_spans), starts)
        chosen = np.argsort(hash_integers(key, _STARTS, np.arange(starts)))[:count]
        return (chosen[:, None] + np.arange(length)).reshape(-1)


__all__ = ["SpanMaskSampler"]
