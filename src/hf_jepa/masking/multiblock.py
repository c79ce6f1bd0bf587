"""Multi-block masking, the default: the idea of I-JEPA without the biases of its official sampler.

Differs from `hf_jepa.masking.multiblock_official`: blocks reach every row and column, scale and aspect ratio are drawn
independently, the context is cut at random to one length for the whole run, no target token is in the context, and the
masks of an image depend on (seed, step, epoch, dataset index) only, not on batch, rank or worker.
"""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch

from hf_jepa.masking.counter_rng import hash_integers, uniform
from hf_jepa.masking.masks import (
    Masks,
    batch_indices,
    block_size,
    box_indices,
    keep_random_tokens,
    rasterize_boxes,
)
from hf_jepa.masking.settings import MultiBlockSettings


_SIZES, _PLACES, _CUT, _TARGET_CUT = 0, 1, 2, 3  # separate streams of random numbers
_LEVELS = 257  # scale and aspect ratio take this many evenly spaced values, so that all block sizes can be listed
_ATTEMPTS = 8  # placements tried per image before targets are put on top of each other
_CALIBRATION_STEPS, _CALIBRATION_IMAGES = 128, 64
_CALIBRATION_QUANTILE = 0.05


@dataclass(frozen=True)
class MultiBlockMaskSampler(MultiBlockSettings):
    """Context and target masks of I-JEPA, unbiased, reproducible and of static context length.

    Args:
        grid_size and the keyword arguments before these: see `MultiBlockSettings`.
        context_length: tokens every context keeps. None: the 5 % quantile of the tokens that context blocks have left
            (a function of the other settings, not of the seed), at least `min_keep + 1`.
        length_bucket: every mask keeps a multiple of this many tokens: contexts by their length, targets by random
            tokens of their block that are left out (and are in no context either). Few lengths are few shapes to
            compile, see `target_lengths`. 1 leaves blocks whole.
        seed: another seed, other masks.

    Raises:
        ValueError: the settings cannot promise `context_length` tokens to every context; masks of a multiple of
            `length_bucket` keep too few tokens.

    Example:
        >>> import torch
        >>> sampler = MultiBlockMaskSampler(14)
        >>> masks = sampler(torch.tensor([5, 17]), step=0)
        >>> alone = sampler(torch.tensor([17]), step=0)
        >>> torch.equal(masks.context_mask[0][1:], alone.context_mask[0])
        True
        >>> masks.context_mask[0].shape == (2, sampler.context_length)
        True
        >>> sampler.target_lengths, MultiBlockMaskSampler(14, length_bucket=8).target_lengths
        ((28, 30, 35, 36, 40, 42), (24, 32, 40))
    """

    _: KW_ONLY
    context_length: int | None = None
    length_bucket: int = 1
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        target_sizes, context_sizes = self._all_block_sizes()
        for kind, sizes in (("target", target_sizes), ("context", context_sizes)):
            smallest = sizes[sizes.prod(axis=1).argmin()]
            self.require_more_than_min_keep(kind, tuple(smallest.tolist()))
        guaranteed = self._guaranteed_context(target_sizes, context_sizes)
        self._check_buckets()
        shortest = self.min_keep + 1 if self.context_length is None else self.context_length
        if not self.min_keep < shortest <= guaranteed:
            raise ValueError(
                f"context_length={self.context_length} with min_keep={self.min_keep} asks for contexts of {shortest} "
                f"tokens; that must exceed min_keep, and these settings guarantee {guaranteed}: the smallest context "
                f"block ({context_sizes.prod(axis=1).min()} tokens, context_scale {self.context_scale}), without "
                f"allow_overlap less one target block (up to {target_sizes.prod(axis=1).max()} tokens, target_scale "
                f"{self.target_scale}). Raise context_scale, lower target_scale, or choose another context_length or "
                "min_keep"
            )
        if self.context_length is None:
            length = min(max(self._calibrated_context_length(), shortest), guaranteed)
            object.__setattr__(self, "context_length", self._rounded("context", length))

    def _check_buckets(self) -> None:
        bucket = self.length_bucket
        if bucket < 1:
            raise ValueError(f"length_bucket must be at least 1, got {bucket}")
        if self.context_length is not None and self.context_length % bucket:
            raise ValueError(f"context_length={self.context_length} is no multiple of length_bucket={bucket}")
        self._rounded("target", self._all_block_sizes()[0].prod(axis=1).min())

    def _rounded(self, kind: str, length: int) -> int:
        """The largest multiple of `length_bucket` within a length."""
        rounded = int(length) // self.length_bucket * self.length_bucket
        if rounded <= self.min_keep:
            raise ValueError(
                f"length_bucket={self.length_bucket} leaves {rounded} of {length} {kind} tokens, and every mask must "
                f"keep more than min_keep={self.min_keep}: lower length_bucket or min_keep"
            )
        return rounded

    @property
    def target_lengths(self) -> tuple[int, ...]:
        """Every number of tokens that a target can have, ascending: as many shapes as batches of masks can have."""
        return tuple(sorted({self._rounded("target", area) for area in self._all_block_sizes()[0].prod(axis=1)}))

    def __call__(self, sample_index: torch.Tensor, *, step: int, epoch: int = 0) -> Masks:
        """Draw the masks of one batch.

        Args:
            sample_index: LongTensor (B,), the dataset index of each image.
            step: optimizer step; sets the block sizes.
            epoch: pass over the data; with the dataset index it sets the positions.

        Returns:
            Masks on the CPU: contexts (B, context_length), targets (B, height * width of the step's target block), cut
            to a multiple of `length_bucket`.
        """
        target_size, context_size = self.block_sizes(step)
        image_key = hash_integers(self.seed, epoch, batch_indices(sample_index))  # (B,)
        target_start, available = self._place_blocks(image_key, target_size, context_size)
        tokens = np.arange(available.shape[-1])
        contexts = []
        for e in range(self.num_context_masks):
            keys = hash_integers(hash_integers(image_key, _CUT, e)[:, None], tokens)  # (B, N)
            contexts.append(torch.from_numpy(keep_random_tokens(available[:, e], self.context_length, keys)))
        targets = box_indices(target_start.swapaxes(0, 1), target_size, self.grid_size)  # (M, B, K)
        return Masks(context_mask=contexts, target_mask=list(torch.from_numpy(self._cut(targets, image_key))))

    def _cut(self, targets: np.ndarray, image_key: np.ndarray) -> np.ndarray:
        """Targets (M, B, K) without as many random tokens as make their length a multiple of `length_bucket`."""
        blocks, batch, area = targets.shape
        length = self._rounded("target", area)
        if length == area:
            return targets
        keys = hash_integers(image_key, _TARGET_CUT, np.arange(blocks)[:, None])  # (M, B)
        keys = hash_integers(keys.reshape(-1, 1), np.arange(area))
        kept = keep_random_tokens(np.ones(keys.shape, dtype=bool), length, keys)
        return np.take_along_axis(targets.reshape(-1, area), kept, axis=1).reshape(blocks, batch, length)

    def block_sizes(self, step: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(target, context) block sizes of a step, each (height, width) in tokens."""
        return self._draw_sizes(self.seed, step)

    def _draw_sizes(self, seed: int, step: int) -> tuple[tuple[int, int], tuple[int, int]]:
        level = (uniform(seed, _SIZES, step, np.arange(3)) * _LEVELS).astype(int)
        target, context = self._target_size(level[0], level[1]), self._context_size(level[2])
        return (int(target[0]), int(target[1])), (int(context[0]), int(context[1]))

    def _target_size(self, scale_level: np.ndarray, aspect_level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale, aspect = _at_level(self.target_scale, scale_level), _at_level(self.target_aspect_ratio, aspect_level)
        return block_size(scale, aspect, self.grid_size)

    def _context_size(self, scale_level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return block_size(_at_level(self.context_scale, scale_level), 1.0, self.grid_size)

    def _all_block_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Every target size (S, 2) and context size (S', 2) that any step can draw."""
        levels = np.arange(_LEVELS)
        targets = np.stack(self._target_size(levels[:, None], levels), axis=-1).reshape(-1, 2)
        contexts = np.stack(self._context_size(levels), axis=-1)
        return np.unique(targets, axis=0), np.unique(contexts, axis=0)

    def _guaranteed_context(self, target_sizes: np.ndarray, context_sizes: np.ndarray) -> int:
        """Tokens left in the worst case: all targets on top of each other, inside the smallest context block."""
        if self.allow_overlap:
            return int(context_sizes.prod(axis=1).min())
        covered = np.minimum(context_sizes[:, None], target_sizes[None]).prod(axis=-1)  # (S', S)
        return int((context_sizes.prod(axis=1)[:, None] - covered).min())

    def _calibrated_context_length(self) -> int:
        """The quantile of the tokens left in context blocks, over block sizes and positions."""
        image_key = hash_integers(0, 0, np.arange(_CALIBRATION_IMAGES))
        left = []
        for step in range(_CALIBRATION_STEPS):
            target_size, context_size = self._draw_sizes(0, step)
            target_start, context_start = self._draw_starts(image_key, 0, target_size, context_size)
            left.append(self._available(target_start, context_start, target_size, context_size).sum(axis=-1))
        return int(np.quantile(np.concatenate(left), _CALIBRATION_QUANTILE))

    def _place_blocks(self, image_key: np.ndarray, target_size, context_size) -> tuple[np.ndarray, np.ndarray]:
        """Target positions (B, M, 2) and the tokens left to each context (B, E, N), at least `context_length` each.

        Images that have too few left are placed again. Those that never fit get their targets put on top of each
        other, from the last to the first, until what is left is what `_guaranteed_context` promises.
        """
        target_start, context_start = self._draw_starts(image_key, 0, target_size, context_size)
        available = self._available(target_start, context_start, target_size, context_size)
        for attempt in range(1, _ATTEMPTS + self.num_target_masks - 1):
            short = np.nonzero((available.sum(axis=-1) < self.context_length).any(axis=1))[0]
            if len(short) == 0:
                break
            if attempt < _ATTEMPTS:
                starts = self._draw_starts(image_key[short], attempt, target_size, context_size)
                target_start[short], context_start[short] = starts
            else:
                m = self.num_target_masks - 1 - (attempt - _ATTEMPTS)
                target_start[short, m:] = target_start[short, m - 1, None]
            available[short] = self._available(target_start[short], context_start[short], target_size, context_size)
        return target_start, available

    def _draw_starts(self, image_key: np.ndarray, attempt: int, target_size, context_size):
        """Independent uniform positions, (B, M, 2) for targets and (B, E, 2) for contexts; the last ones included."""
        num_blocks = self.num_target_masks + self.num_context_masks
        key = hash_integers(image_key, _PLACES, attempt)[:, None]
        fraction = uniform(key, np.arange(num_blocks * 2)).reshape(-1, num_blocks, 2)
        sizes = np.array([target_size] * self.num_target_masks + [context_size] * self.num_context_masks)
        start = (fraction * (np.array(self.grid_size) - sizes + 1)).astype(np.int64)
        return start[:, : self.num_target_masks], start[:, self.num_target_masks :]

    def _available(self, target_start, context_start, target_size, context_size) -> np.ndarray:
        """Tokens of each context block that no target covers, bool (B, E, N)."""
        available = rasterize_boxes(context_start, context_size, self.grid_size)
        if not self.allow_overlap:
            available &= ~rasterize_boxes(target_start, target_size, self.grid_size).any(axis=1, keepdims=True)
        return available.reshape(*available.shape[:2], -1)


def _at_level(bounds: tuple[float, float], level: np.ndarray) -> np.ndarray:
    return bounds[0] + level / (_LEVELS - 1) * (bounds[1] - bounds[0])


__all__ = ["MultiBlockMaskSampler"]
