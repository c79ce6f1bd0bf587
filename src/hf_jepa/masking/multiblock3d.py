"""Multi-block masks of clips and images, the default: the idea of V-JEPA without the biases of its official sampler.

Differs from `hf_jepa.masking.multiblock3d_official`: masks are shortened at random instead of from the end, so no
frame is preferred; lengths stay the same for the whole run; block sizes are drawn clip by clip; the masks of a clip
depend on (seed, step, epoch, dataset index) only, not on batch, rank or worker.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from hf_jepa.masking.block_mask import BlockMask, MultiBlock3dSettings
from hf_jepa.masking.counter_rng import hash_integers, uniform
from hf_jepa.masking.masks import Masks, batch_indices, block_size, split_at_random, union_of_boxes


_ATTEMPTS = 8  # draws of blocks per clip before tokens change sides to make up what is missing
_CALIBRATION_BATCHES, _CALIBRATION_CLIPS = 32, 64
_CALIBRATION_QUANTILE = 0.05
_LEAST_USABLE = 0.25  # share of draws that must leave context


@dataclass(frozen=True)
class MultiBlock3dMaskSampler(MultiBlock3dSettings):
    """Mask pairs of V-JEPA: unbiased over frames, reproducible, of static lengths; context and target are disjoint.

    A pair's lengths are the 5 % quantiles of the tokens that blocks leave and cover (a function of the other settings,
    not of the seed). Clips with more are shortened at random; clips with less get other blocks, up to 7 times, then
    random tokens of the other side. Blocks that span all frames are handled as tubes: whole tubes are kept or dropped.

    Args:
        grid_size, masks: see `MultiBlock3dSettings`.
        seed: another seed, other masks.

    Attributes:
        lengths: per pair (context tokens, target tokens).

    Raises:
        ValueError: the blocks of a pair leave no context in three of four draws, or `max_keep` is less than a tube.

    Example:
        >>> import torch
        >>> sampler = MultiBlock3dMaskSampler((8, 14, 14))
        >>> masks = sampler(torch.tensor([5, 17]), step=0)
        >>> alone = sampler(torch.tensor([17]), step=0)
        >>> torch.equal(masks.context_mask[1][1:], alone.context_mask[1])
        True
        >>> [tuple(mask.shape) for mask in masks.context_mask] == [(2, context) for context, _ in sampler.lengths]
        True
    """

    seed: int = 0
    lengths: tuple[tuple[int, int], ...] = field(init=False, compare=False)
    _blocks: "_Blocks" = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "_blocks", _Blocks(self.masks, self.grid_size))
        object.__setattr__(self, "lengths", tuple(self._blocks.lengths(i) for i in range(len(self.masks))))

    def __call__(self, sample_index: torch.Tensor, *, step: int, epoch: int = 0) -> Masks:
        """Draw the masks of one batch.

        Args:
            sample_index: LongTensor (B,), the dataset index of each clip.
            step: optimizer step, so that a clip that comes again within an epoch gets other masks.
            epoch: pass over the data.

        Returns:
            Masks on the CPU, a pair per entry of `masks`: `context_mask[i]` (B, lengths[i][0]) and `target_mask[i]`
            (B, lengths[i][1]).
        """
        key = hash_integers(self.seed, step, epoch, batch_indices(sample_index))  # (B,)
        pairs = self._blocks.draw(hash_integers(key, np.arange(len(self.masks))[:, None]))
        contexts, targets = zip(*pairs, strict=True)
        return Masks([torch.from_numpy(mask) for mask in contexts], [torch.from_numpy(mask) for mask in targets])


class _Blocks:
    """Draws mask pairs on a grid of cells: tubes through all frames where all blocks are that long, else tokens.

    P pairs are drawn in one go, with M blocks each; a pair that has fewer gets empty ones.
    """

    def __init__(self, masks: tuple[BlockMask, ...], grid_size: tuple[int, int, int]):
        self.masks = masks
        frames, rows, columns = grid_size
        is_tubes = all(
            np.rint(mask.temporal_scale[0] * frames) == mask.context_frames(frames) == frames for mask in masks
        )
        self.cell_grid = (1, rows, columns) if is_tubes else grid_size
        self.cell_frames = frames if is_tubes else 1  # tokens per cell
        self.num_cells = int(np.prod(self.cell_grid))
        ranges = np.array([(mask.temporal_scale, mask.spatial_scale, mask.aspect_ratio) for mask in masks])
        self.low, self.width = ranges[..., 0], ranges[..., 1] - ranges[..., 0]  # (P, 3)
        num_blocks = np.array([mask.num_blocks for mask in masks])
        self.exists = np.arange(num_blocks.max()) < num_blocks[:, None]  # (P, M)
        self.hidden = np.zeros((len(masks), *self.cell_grid), dtype=bool)
        for hidden, mask in zip(self.hidden, masks, strict=True):
            hidden[mask.context_frames(self.cell_grid[0]) :] = True
        bounds = [self._calibrate(i) for i in range(len(masks))]
        self.fewest, self.most = np.array(bounds).T  # (P,), covered cells of nearly all clips
        self.kept = [self._num_kept(i) for i in range(len(masks))]

    def lengths(self, i: int) -> tuple[int, int]:
        """Tokens of context and target of pair i."""
        context, target = (cells * self.cell_frames for cells in self.kept[i])
        return (target, context) if self.masks[i].inv_block else (context, target)

    def draw(self, key: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Sorted token indices (B, K) of context and target, pair by pair, of uint64 keys (P, B)."""
        covered = self._fitting(key)
        cell_key = hash_integers(key[..., None], np.arange(self.num_cells))
        for i, mask in enumerate(self.masks):
            context, target = map(self._tokens, split_at_random(covered[i], *self.kept[i], cell_key[i]))
            yield (target, context) if mask.inv_block else (context, target)

    def _fitting(self, key: np.ndarray) -> np.ndarray:
        """Cells under blocks, bool (P, B, N), drawn again where they are too few or too many for the lengths."""
        pair, row = np.repeat(np.arange(len(key)), key.shape[1]), key.reshape(-1)
        covered = self._covered(pair, row)
        for attempt in range(1, _ATTEMPTS):
            count = np.count_nonzero(covered, axis=1)
            unfit = np.flatnonzero((count < self.fewest[pair]) | (count > self.most[pair]))
            if len(unfit) == 0:
                break
            covered[unfit] = self._covered(pair[unfit], hash_integers(row[unfit], attempt))
        return covered.reshape(*key.shape, self.num_cells)

    def _covered(self, pair: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Cells under blocks of random size and position, bool (R, N), of pairs and keys (R,)."""
        num_blocks, (frames, rows, columns) = self.exists.shape[1], self.cell_grid
        counter = self.num_cells + np.arange(3 + 3 * num_blocks)  # the first numbers of a key are the cells' own
        fraction = uniform(key[:, None], counter)
        temporal, spatial, aspect = (self.low[pair] + fraction[:, :3] * self.width[pair]).T
        length = np.maximum(np.rint(temporal * frames), 1).astype(np.int64)
        size = np.stack([length, *block_size(spatial, aspect, (rows, columns))], axis=-1)[:, None]  # (R, 1, 3)
        room = np.array(self.cell_grid) - size + 1
        start = (fraction[:, 3:].reshape(-1, num_blocks, 3) * room).astype(np.int64)
        inside = union_of_boxes(start, size * self.exists[pair][..., None], self.cell_grid)  # (R, T, H, W)
        return (inside | self.hidden[pair]).reshape(len(key), -1)

    def _tokens(self, cells: np.ndarray) -> np.ndarray:
        """Token indices (B, K) of sorted cells (B, K / cell_frames)."""
        if self.cell_frames == 1:
            return cells
        offset = self.num_cells * np.arange(self.cell_frames)
        return (cells[:, None] + offset[:, None]).reshape(len(cells), -1)

    def _calibrate(self, i: int) -> tuple[int, int]:
        """Bounds of the number of covered cells that most draws of pair i keep, so that lengths can be promised."""
        pair = np.full(_CALIBRATION_CLIPS, i)
        keys = hash_integers(0, np.arange(_CALIBRATION_BATCHES * _CALIBRATION_CLIPS)).reshape(_CALIBRATION_BATCHES, -1)
        counts = np.concatenate([np.count_nonzero(self._covered(pair, part), axis=1) for part in keys])
        usable = counts[counts < self.num_cells]
        if len(usable) < _LEAST_USABLE * len(counts):
            raise ValueError(
                f"{self.masks[i]} leaves no context in {1 - len(usable) / len(counts):.0%} of all draws on a grid of "
                f"{self.cell_grid[1]} x {self.cell_grid[2]} tokens per frame: lower num_blocks or spatial_scale"
            )
        fewest, most = np.quantile(usable, (_CALIBRATION_QUANTILE, 1 - _CALIBRATION_QUANTILE))
        return int(fewest), int(np.ceil(most))

    def _num_kept(self, i: int) -> tuple[int, int]:
        """Cells of context and target of pair i, before they may be swapped."""
        mask, context, target = self.masks[i], self.num_cells - int(self.most[i]), int(self.fewest[i])
        if mask.max_keep is not None:
            context = min(context, mask.max_keep // self.cell_frames)
            if context < 1:
                raise ValueError(
                    f"max_keep={mask.max_keep} is less than a tube of {self.cell_frames} tokens, and blocks through "
                    f"all frames leave whole tubes: raise max_keep to at least {self.cell_frames}"
                )
        if mask.full_complement:
            target = self.num_cells - context
        elif mask.pred_full_complement:
            context = self.num_cells - target
        return context, target


__all__ = ["MultiBlock3dMaskSampler"]
