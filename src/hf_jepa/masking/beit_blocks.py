"""Block masks of BEiT and data2vec: rectangles are laid over one another until a share of the patches is masked.

They mark patches that the encoder sees as mask tokens, in place: a bool tensor, not lists of indices.
"""

import math
import random
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch

from hf_jepa.masking.counter_rng import hash_integers, uniform
from hf_jepa.masking.masks import batch_indices, keep_random_tokens, union_of_boxes


_BLOCKS, _REST = 0, 1  # separate streams of random numbers


@dataclass(frozen=True)
class BeitBlockSettings:
    """Sizes of the blocks of BEiT masking (arXiv 2106.08254, algorithm 1), as data2vec uses it.

    Args:
        grid_size: patches per side of the square grid, or (rows, columns).
        num_mask_patches: patches to mask per image. 120 of 14 x 14, the 60 % of data2vec (the official default, 75, is
            that of BEiT).
        min_block_patches: smallest area of a block that is asked for; rounding of its sides may make it smaller.
        max_block_patches: largest area; `num_mask_patches` when unset.
        min_aspect_ratio: the height / width of a block lies between this and its inverse, uniformly in the logarithm.
        attempts: placements of one block that are tried before the search ends.

    Raises:
        ValueError: a setting is out of range.
    """

    grid_size: int | tuple[int, int]
    _: KW_ONLY
    num_mask_patches: int = 120
    min_block_patches: int = 16
    max_block_patches: int | None = None
    min_aspect_ratio: float = 0.3
    attempts: int = 10

    def __post_init__(self):
        grid = (self.grid_size, self.grid_size) if isinstance(self.grid_size, int) else tuple(self.grid_size)
        if len(grid) != 2 or min(grid) < 1:
            raise ValueError(f"grid_size must be a positive number or (rows, columns), got {self.grid_size}")
        object.__setattr__(self, "grid_size", grid)
        patches = math.prod(grid)
        if not 0 < self.num_mask_patches <= patches:
            raise ValueError(f"num_mask_patches={self.num_mask_patches} must lie between 1 and the {patches} patches")
        if self.max_block_patches is None:
            object.__setattr__(self, "max_block_patches", max(self.num_mask_patches, self.min_block_patches))
        if not 0 < self.min_block_patches <= self.max_block_patches:
            raise ValueError(
                f"min_block_patches={self.min_block_patches} must lie between 1 and "
                f"max_block_patches={self.max_block_patches}"
            )
        if not 0 < self.min_aspect_ratio <= 1:
            raise ValueError(f"min_aspect_ratio must be in (0, 1], got {self.min_aspect_ratio}")
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")


@dataclass(frozen=True)
class BeitBlockMaskSampler(BeitBlockSettings):
    """Block masks with exactly `num_mask_patches` in every image, from (seed, epoch, dataset index) alone.

    Unlike the official sampler it never stops short of the number: what no further block fits into is filled with
    single patches, chosen at random. So the masked tokens of a batch make one dense tensor, and batch size, workers
    and ranks change nothing. Blocks may reach from edge to edge.

    Args:
        grid_size and the keyword arguments before this: see `BeitBlockSettings`.
        seed: another seed, other masks.

    Example:
        >>> import torch
        >>> sampler = BeitBlockMaskSampler(14)
        >>> masks = sampler(torch.tensor([5, 17]), step=0)
        >>> masks.shape, masks.sum(dim=1).tolist()
        (torch.Size([2, 196]), [120, 120])
        >>> torch.equal(masks[1:], sampler(torch.tensor([17]), step=9))
        True
    """

    _: KW_ONLY
    seed: int = 0

    def __call__(self, sample_index: torch.Tensor, *, step: int, epoch: int = 0) -> torch.Tensor:
        """Draw the masks of one batch.

        Args:
            sample_index: LongTensor (B,), the dataset index of each image.
            step: not used; the dataset index and the epoch name a mask.
            epoch: pass over the data.

        Returns:
            BoolTensor (B, rows * columns) on the CPU, row-major, True where a patch is masked.
        """
        image_key = hash_integers(self.seed, epoch, batch_indices(sample_index))  # (B,)
        masked = self._lay_blocks(image_key)
        covered, rest = masked.sum(axis=1), np.arange(masked.shape[1])
        for row in np.flatnonzero(covered < self.num_mask_patches):
            keys = hash_integers(image_key[row], _REST, rest)[None]
            masked[row, keep_random_tokens(~masked[row, None], self.num_mask_patches - covered[row], keys)[0]] = True
        return torch.from_numpy(masked)

    def _lay_blocks(self, image_key: np.ndarray) -> np.ndarray:
        """Blocks of all images side by side, one attempt each at a time: bool (B, N), at most the number wanted."""
        masked = np.zeros((len(image_key), math.prod(self.grid_size)), dtype=bool)
        failures = np.zeros(len(image_key), dtype=np.int64)  # since the last block that was laid
        attempt, active = 0, np.arange(len(image_key))
        while len(active):
            remaining = self.num_mask_patches - masked[active].sum(axis=1)
            blocks = self._draw_blocks(image_key[active], attempt, remaining)
            new = (blocks & ~masked[active]).sum(axis=1)
            laid = (new > 0) & (new <= remaining)
            masked[active[laid]] |= blocks[laid]
            failures[active] = np.where(laid, 0, failures[active] + 1)
            open_images = (remaining > np.where(laid, new, 0)) & (failures[active] < self.attempts)
            attempt, active = attempt + 1, active[open_images]
        return masked

    def _draw_blocks(self, image_key: np.ndarray, attempt: int, remaining: np.ndarray) -> np.ndarray:
        """One block for each image, bool (B, N)."""
        area, aspect, top, left = uniform(hash_integers(image_key, _BLOCKS, attempt)[:, None], np.arange(4)).T
        largest = np.minimum(remaining, self.max_block_patches)
        smallest = np.minimum(largest, self.min_block_patches)
        area = smallest + area * (largest - smallest)
        aspect = self.min_aspect_ratio ** (1.0 - 2.0 * aspect)
        rows, columns = self.grid_size
        height = np.clip(np.rint(np.sqrt(area * aspect)), 1, rows)
        width = np.clip(np.rint(np.sqrt(area / aspect)), 1, columns)
        start = np.stack([top * (rows - height + 1), left * (columns - width + 1)], axis=-1).astype(np.int64)
        size = np.stack([height, width], axis=-1).astype(np.int64)
        return union_of_boxes(start[:, None], size[:, None], self.grid_size).reshape(len(image_key), -1)


@dataclass(frozen=True)
class OfficialBeitBlockMaskSampler(BeitBlockSettings):
    """Block masks as the official code draws them, index for index, from Python's global `random`.

    Keep it for exact comparisons. What it inherits: images have different numbers of masked patches, up to about ten
    short of the number asked for, since the search ends after `attempts` failures; no block reaches from edge to edge;
    masks depend on all draws before them.

    Args:
        grid_size and the keyword arguments: see `BeitBlockSettings`; the official `max_block_patches` is 196.

    Example:
        >>> import torch
        >>> random.seed(5)
        >>> sampler = OfficialBeitBlockMaskSampler(14, num_mask_patches=75, max_block_patches=196)
        >>> bool((sampler(torch.arange(8), step=0).sum(dim=1) <= 75).all())
        True
    """

    def __call__(self, sample_index: torch.Tensor, *, step: int, epoch: int = 0) -> torch.Tensor:
        """Draw the masks of one batch.

        Args:
            sample_index: LongTensor (B,); only its length is used.
            step, epoch: not used; the global generator moves on from image to image.

        Returns:
            BoolTensor (B, rows * columns), row-major, True where a patch is masked.
        """
        return torch.from_numpy(np.stack([self._draw().reshape(-1) for _ in batch_indices(sample_index)]))

    def _draw(self) -> np.ndarray:
        masked = np.zeros(self.grid_size, dtype=bool)
        while (remaining := self.num_mask_patches - int(masked.sum())) > 0:
            largest = min(remaining, self.max_block_patches)
            if not any(self._lay_block(masked, largest) for _ in range(self.attempts)):
                break
        return masked

    def _lay_block(self, masked: np.ndarray, largest: int) -> bool:
        """Mask one block in place, if the one that is drawn fits; the order of the draws is the official one."""
        area = random.uniform(self.min_block_patches, largest)
        bound = math.log(self.min_aspect_ratio)
        aspect = math.exp(random.uniform(bound, math.log(1 / self.min_aspect_ratio)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        rows, columns = self.grid_size
        if height >= rows or width >= columns:
            return False
        top, left = random.randint(0, rows - height), random.randint(0, columns - width)
        block = masked[top : top + height, left : left + width]
        if not 0 < height * width - block.sum() <= largest:
            return False
        block[:] = True
        return True


__all__ = ["BeitBlockMaskSampler", "BeitBlockSettings", "OfficialBeitBlockMaskSampler"]
