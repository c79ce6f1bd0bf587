"""Multi-block masks of clips with the draws of the official V-JEPA code (1, 2 and 2.1), index for index.

Keep it for exact comparisons; `hf_jepa.masking.multiblock3d` is the default. What it inherits from the official code:
masks are cut to the batch minimum from the end, so the last frames are seen and predicted less; lengths change from
step to step; masks depend on the batch and on the global random state (see docs/masking.md).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from hf_jepa.masking.block_mask import BlockMask, MultiBlock3dSettings
from hf_jepa.masking.masks import Masks, batch_indices, union_of_boxes


_SIZE_PROBES = 4096  # evenly spaced aspect ratios tried at construction to find blocks that leave nothing
_LARGEST_FRACTION = 1 - 2**-24  # that torch.rand can draw
_PATIENCE = 1000  # rounds of new draws for clips without context


@dataclass(frozen=True)
class OfficialMultiBlock3dMaskSampler(MultiBlock3dSettings):
    """Mask pairs of clips as the official V-JEPA collators draw them.

    Sources: `src/masks/multiblock3d.py` of V-JEPA 1, `src/masks/multiseq_multiblock3d.py` of V-JEPA 2. Block sizes
    come from a generator seeded with `step`, positions from the global torch generator.

    Args:
        grid_size, masks: see `MultiBlock3dSettings`.

    Raises:
        ValueError: a block can be empty, or leave no context; the official code would fail or never return.

    Example:
        >>> import torch
        >>> sampler = OfficialMultiBlock3dMaskSampler((8, 14, 14))
        >>> _ = torch.manual_seed(0)
        >>> masks = sampler(torch.arange(4), step=0)
        >>> [tuple(mask.shape) for mask in masks.target_mask]
        [(4, 976), (4, 1232)]
    """

    def __post_init__(self):
        super().__post_init__()
        for mask in self.masks:
            low, high = mask.aspect_ratio
            for fraction in (0.0, _LARGEST_FRACTION):
                temporal, spatial = (a + fraction * (b - a) for a, b in (mask.temporal_scale, mask.spatial_scale))
                for probe in range(_SIZE_PROBES + 1):
                    aspect = low + (high - low) * probe / _SIZE_PROBES
                    self._check(self._block_size(temporal, spatial, aspect), mask)

    def __call__(self, sample_index: torch.Tensor, *, step: int, epoch: int = 0) -> Masks:
        """Draw the masks of one batch.

        Args:
            sample_index: LongTensor (B,); only its length is used.
            step: the official collator's counter, 0 for the first batch.
            epoch: not used; the global torch generator already moves on from batch to batch.

        Returns:
            Masks on the CPU, a pair per entry of `masks`; lengths are the smallest of the batch.

        Raises:
            RuntimeError: blocks cover the clip again and again; the official code would go on trying.
        """
        batch_size = len(batch_indices(sample_index))
        pairs = [
            self._cut(mask, self._draw_covered(mask, size, batch_size))
            for mask, size in zip(self.masks, self.block_sizes(step), strict=True)
        ]
        contexts, targets = zip(*pairs, strict=True)
        return Masks(list(contexts), list(targets))

    def block_sizes(self, step: int) -> list[tuple[int, int, int]]:
        """Block size of every mask pair at a step, (frames, height, width) in tokens."""
        sizes = []
        for mask in self.masks:
            generator = torch.Generator().manual_seed(step)
            drawn = [
                low + torch.rand(1, generator=generator).item() * (high - low)
                for low, high in (mask.temporal_scale, mask.spatial_scale, mask.aspect_ratio)
            ]
            size = self._block_size(*drawn)
            self._check(size, mask)
            sizes.append(size)
        return sizes

    def _block_size(self, temporal_scale: float, spatial_scale: float, aspect: float) -> tuple[int, int, int]:
        frames, rows, columns = self.grid_size
        area = int(rows * columns * spatial_scale)
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        return max(1, int(frames * temporal_scale)), min(height, rows), min(width, columns)

    def _check(self, size: tuple[int, int, int], mask: BlockMask) -> None:
        if min(size) == 0 or size == self.grid_size:
            raise ValueError(
                f"{mask} draws blocks of {size} tokens on a grid of {self.grid_size} (frames, rows, columns), which "
                f"{'cover nothing' if min(size) == 0 else 'leave no context'}: "
                f"{'raise' if min(size) == 0 else 'lower'} spatial_scale, or use a finer grid"
            )

    def _draw_covered(self, mask: BlockMask, size: tuple[int, int, int], batch_size: int) -> np.ndarray:
        """Tokens under the blocks, bool (B, N).

        The official code draws one number after another, and clips without context again in their turn. So clips are
        the first `batch_size` sets of blocks of the stream that leave context.
        """
        frames, rows, columns = self.grid_size
        room = (rows - size[1] + 1, columns - size[2] + 1, frames - size[0] + 1)
        covered = np.empty((0, frames * rows * columns), dtype=bool)
        for _ in range(_PATIENCE):
            # A draw is 32 random bits modulo its bound, so one modulo a common multiple can be reduced to each bound.
            shape = (batch_size - len(covered), mask.num_blocks, 3)
            top_left_start = torch.randint(math.lcm(*room), shape).numpy() % room
            start = np.roll(top_left_start, 1, axis=-1)  # (start, top, left)
            drawn = union_of_boxes(start, np.array(size), self.grid_size)  # (B, T, H, W)
            drawn[:, mask.context_frames(frames) :] = True
            drawn = drawn.reshape(len(drawn), -1)
            covered = np.concatenate([covered, drawn[~drawn.all(axis=1)]])
            if len(covered) == batch_size:
                return covered
        raise RuntimeError(
            f"blocks of {size} tokens on a grid of {self.grid_size} left no context in {_PATIENCE} draws: lower "
            f"num_blocks={mask.num_blocks}"
        )

    @staticmethod
    def _cut(mask: BlockMask, covered: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Context and target tokens, cut from the end to one length."""
        target = _first_tokens(covered)
        context = _first_tokens(~covered, mask.max_keep)
        if mask.full_complement:
            target = _others(context, covered.shape[1])
        elif mask.pred_full_complement:
            context = _others(target, covered.shape[1])
        pair = torch.from_numpy(context), torch.from_numpy(target)
        return pair[::-1] if mask.inv_block else pair


def _first_tokens(member: np.ndarray, most: int | None = None) -> np.ndarray:
    """The first true positions of each row (B, N), as many as the poorest row has and at most `most`; (B, K)."""
    counts = member.sum(axis=1)
    length = int(counts.min()) if most is None else min(int(counts.min()), most)
    first = np.cumsum(counts) - counts
    return (np.flatnonzero(member) % member.shape[1])[first[:, None] + np.arange(length)]


def _others(tokens: np.ndarray, num_tokens: int) -> np.ndarray:
    """The tokens of each row that are not in (B, K), sorted; (B, N - K)."""
    left = np.ones((len(tokens), num_tokens), dtype=bool)
    np.put_along_axis(left, tokens, False, axis=1)
    return _first_tokens(left)


__all__ = ["OfficialMultiBlock3dMaskSampler"]
