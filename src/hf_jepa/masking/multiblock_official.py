"""Multi-block masking with the draws of the official I-JEPA code, index for index.

Keep it for exact comparisons; `hf_jepa.masking.multiblock` is the default. What it inherits from the official code:
the last row and column are never covered, scale and aspect ratio share one random number, the context is cut to the
batch minimum from the bottom, and masks depend on the batch and on the global random state (see docs/masking.md).
"""

import math
from dataclasses import dataclass
from itertools import count

import torch

from hf_jepa.masking.masks import Masks, batch_indices
from hf_jepa.masking.settings import MultiBlockSettings


_PATIENCE = 20  # failed context draws before one more target is allowed inside the context
_SIZE_PROBES = 4096  # evenly spaced random numbers tried at construction to find blocks that are too small


@dataclass(frozen=True)
class OfficialMultiBlockMaskSampler(MultiBlockSettings):
    """Multi-block masks as the official I-JEPA collator draws them (`src/masks/multiblock.py`).

    Block sizes come from a generator seeded with `step`, positions from the global torch generator.

    Args:
        grid_size and all keyword arguments: see `MultiBlockSettings`.

    Raises:
        ValueError: a block can have `min_keep` tokens or fewer; the official code would never return.

    Example:
        >>> import torch
        >>> sampler = OfficialMultiBlockMaskSampler(14)
        >>> _ = torch.manual_seed(0)
        >>> masks = sampler(torch.arange(8), step=0)
        >>> [tuple(mask.shape) for mask in masks.target_mask]
        [(8, 36), (8, 36), (8, 36), (8, 36)]
    """

    def __post_init__(self):
        super().__post_init__()
        for probe in range(_SIZE_PROBES + 1):
            fraction = probe / _SIZE_PROBES
            target_size, context_size = self._block_sizes(fraction, fraction)
            self.require_more_than_min_keep("target", target_size)
            self.require_more_than_min_keep("context", context_size)

    def __call__(self, sample_index: torch.Tensor, *, step: int, epoch: int = 0) -> Masks:
        """Draw the masks of one batch.

        Args:
            sample_index: LongTensor (B,); only its length is used.
            step: the official collator's counter, 0 for the first batch.
            epoch: not used; the global torch generator already moves on from batch to batch.

        Returns:
            Masks whose context length is the smallest of the batch.
        """
        target_size, context_size = self.block_sizes(step)
        self.require_more_than_min_keep("target", target_size)
        self.require_more_than_min_keep("context", context_size)
        contexts, targets = [], []
        for _ in batch_indices(sample_index):
            target_blocks = [self._draw_block(target_size) for _ in range(self.num_target_masks)]
            forbidden = [] if self.allow_overlap else target_blocks
            contexts.append([self._draw_context(context_size, forbidden) for _ in range(self.num_context_masks)])
            targets.append([block.flatten().nonzero().squeeze(1) for block in target_blocks])
        shortest = min(len(context) for image in contexts for context in image)
        return Masks(
            context_mask=[torch.stack([context[:shortest] for context in e]) for e in zip(*contexts, strict=True)],
            target_mask=[torch.stack(m) for m in zip(*targets, strict=True)],
        )

    def block_sizes(self, step: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(target, context) block sizes of a step, each (height, width) in tokens."""
        generator = torch.Generator().manual_seed(step)
        target_fraction = torch.rand(1, generator=generator).item()
        context_fraction = torch.rand(1, generator=generator).item()
        return self._block_sizes(target_fraction, context_fraction)

    def _block_sizes(self, target_fraction: float, context_fraction: float):
        target = self._block_size(target_fraction, self.target_scale, self.target_aspect_ratio)
        context = self._block_size(context_fraction, self.context_scale, (1.0, 1.0))
        return target, context

    def _block_size(self, fraction: float, scale: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, int]:
        """One random number sets both the area and the aspect ratio; a block stays smaller than the grid."""
        rows, columns = self.grid_size
        area = int(rows * columns * (scale[0] + fraction * (scale[1] - scale[0])))
        ratio = aspect[0] + fraction * (aspect[1] - aspect[0])
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        return min(height, rows - 1), min(width, columns - 1)

    def _draw_block(self, size: tuple[int, int]) -> torch.Tensor:
        """A boolean grid (rows, columns) with one block; the upper bound of a position is exclusive."""
        (height, width), (rows, columns) = size, self.grid_size
        top = int(torch.randint(0, rows - height, (1,)))
        left = int(torch.randint(0, columns - width, (1,)))
        block = torch.zeros(rows, columns, dtype=torch.bool)
        block[top : top + height, left : left + width] = True
        return block

    def _draw_context(self, size: tuple[int, int], forbidden: list[torch.Tensor]) -> torch.Tensor:
        """Token indices of a context block without the forbidden blocks, which are given up one by one."""
        for attempt in count():  # ends: once nothing is forbidden, the block alone is large enough
            block = self._draw_block(size)
            for target in forbidden[: max(0, len(forbidden) - attempt // _PATIENCE)]:
                block &= ~target
            context = block.flatten().nonzero().squeeze(1)
            if len(context) > self.min_keep:
                return context


__all__ = ["OfficialMultiBlockMaskSampler"]
