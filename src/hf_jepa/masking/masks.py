"""What every mask sampler returns, and the array operations that samplers of images, video and audio share."""

from typing import NamedTuple

import numpy as np
import torch


class Masks(NamedTuple):
    """The token masks of one batch.

    Args:
        context_mask: one LongTensor (B, K_context) per context, the tokens the context encoder sees.
        target_mask: one LongTensor (B, K_target) per target, the tokens the predictor must predict.

    Indices count the token grid row-major and are sorted. Samplers of images give every context to all targets, and
    their masks of a list have one length. Samplers of video give pairs: `context_mask[i]` goes with `target_mask[i]`,
    and the lengths differ between pairs.

    Example:
        >>> from hf_jepa import MultiBlockMaskSampler
        >>> masks = MultiBlockMaskSampler((8, 8), min_keep=4)(torch.arange(2), step=0, epoch=0)
        >>> len(masks.context_mask), len(masks.target_mask), masks.target_mask[0].shape[0]
        (1, 4, 2)
    """

    context_mask: list[torch.Tensor]
    target_mask: list[torch.Tensor]


def batch_indices(sample_index: torch.Tensor) -> np.ndarray:
    """Check a batch of dataset indices and return it as an int64 array (B,).

    Raises:
        TypeError: not a tensor.
        ValueError: not a non-empty integer tensor of one dimension.
    """
    if not isinstance(sample_index, torch.Tensor):
        raise TypeError(f"sample_index must be a LongTensor (batch,), got {type(sample_index).__name__}")
    if sample_index.ndim != 1 or sample_index.numel() == 0 or sample_index.is_floating_point():
        raise ValueError(
            f"sample_index has shape {tuple(sample_index.shape)} and dtype {sample_index.dtype}: "
            "expected a non-empty LongTensor (batch,) of dataset indices"
        )
    return sample_index.detach().cpu().numpy().astype(np.int64)


def block_size(scale: np.ndarray, aspect: np.ndarray, grid_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Height and width of blocks of a share of the grid; the width makes up for the rounding of the height.

    Args:
        scale: shares of the grid, each in (0, 1].
        aspect: height / width; both arrays broadcast.
        grid_size: (rows, columns) in tokens.

    Returns:
        Two int64 arrays of the broadcast shape, from 1 to the extent of the grid.

    Example:
        >>> import numpy as np
        >>> height, width = block_size(np.array([0.15, 1.0]), np.array([0.75, 1.5]), (14, 14))
        >>> height.tolist(), width.tolist()
        ([5, 14], [6, 14])
    """
    rows, columns = grid_size
    area = scale * rows * columns
    lowest = np.maximum(np.rint(area / columns), 1)  # a block as wide as the grid
    height = np.clip(np.rint(np.sqrt(area * aspect)), lowest, rows)
    width = np.clip(np.rint(area / height), 1, columns)
    return height.astype(np.int64), width.astype(np.int64)


def rasterize_boxes(start: np.ndarray, size: tuple[int, ...], grid_size: tuple[int, ...]) -> np.ndarray:
    """Paint axis-aligned boxes of one size onto their own copies of a grid.

    Args:
        start: first covered cell of each box, integers (..., D).
        size, grid_size: D extents in cells; D is 2 for images, 3 for video, 1 for series.

    Returns:
        bool array (..., *grid_size), true inside the box.

    Example:
        >>> import numpy as np
        >>> rasterize_boxes(np.array([0, 1]), (2, 2), (2, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    inside = np.ones((1,) * len(grid_size), dtype=bool)
    for axis, extent in enumerate(grid_size):
        offset = np.arange(extent) - start[..., axis, None]  # (..., extent)
        along_axis = (offset >= 0) & (offset < size[axis])
        shape = [1] * len(grid_size)
        shape[axis] = extent
        inside = inside & along_axis.reshape(*start.shape[:-1], *shape)
    return inside


def union_of_boxes(start: np.ndarray, size: np.ndarray, grid_size: tuple[int, ...]) -> np.ndarray:
    """Paint several axis-aligned boxes onto each of several grids.

    Args:
        start: first covered cell of each box, integers (B, M, D) with D at least 2.
        size: extents in cells, integers that broadcast to (B, M, D); boxes without extent cover nothing.
        grid_size: D extents in cells.

    Returns:
        bool array (B, *grid_size), true inside any of the M boxes.

    Example:
        >>> import numpy as np
        >>> union_of_boxes(np.array([[[0, 0], [1, 2]]]), np.array([1, 2]), (2, 4)).astype(int).tolist()
        [[[1, 1, 0, 0], [0, 0, 1, 1]]]
    """
    size = np.asarray(size)
    along = []  # per axis: which cells each box covers, 0. or 1., (B, M, extent)
    for axis, extent in enumerate(grid_size):
        offset = np.arange(extent) - start[..., axis, None]
        along.append(((offset >= 0) & (offset < size[..., axis, None])).astype(np.float32))
    *leading, last = along
    plane = leading[0]
    for covered in leading[1:]:
        plane = (plane[..., None] * covered[..., None, :]).reshape(*plane.shape[:-1], -1)
    boxes_per_cell = plane.swapaxes(-1, -2) @ last  # a product of matrices is several times faster than M paintings
    return (boxes_per_cell > 0).reshape(len(start), *grid_size)


def box_indices(start: np.ndarray, size: tuple[int, ...], grid_size: tuple[int, ...]) -> np.ndarray:
    """Sorted row-major token indices of axis-aligned boxes of one size.

    Args:
        start: first covered cell of each box, integers (..., D).
        size, grid_size: D extents in cells.

    Returns:
        int64 array (..., K), K the number of cells of a box.

    Example:
        >>> import numpy as np
        >>> box_indices(np.array([0, 1]), (2, 2), (2, 4)).tolist()
        [1, 2, 5, 6]
    """
    box = np.ravel_multi_index(np.indices(size), grid_size).reshape(-1)  # (K,), the box in the first corner
    strides = np.cumprod((1, *grid_size[:0:-1]))[::-1]  # cells to skip per step along each axis
    return (start @ strides)[..., None] + box


def keep_random_tokens(available: np.ndarray, length: int, keys: np.ndarray) -> np.ndarray:
    """Keep `length` of the available tokens, each subset with the same probability.

    Args:
        available: bool array (B, N), at least `length` true per row.
        length: tokens to keep per row.
        keys: uint64 array (B, N) of random keys, distinct within a row; the smallest available ones win.

    Returns:
        Sorted int64 indices (B, length).
    """
    ranked = np.where(available, keys, np.iinfo(np.uint64).max)
    last = np.partition(ranked, length - 1, axis=1)[:, length - 1 : length]
    return (np.flatnonzero(ranked <= last) % available.shape[1]).reshape(len(available), length)


def split_at_random(
    covered: np.ndarray, context_length: int, target_length: int, keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pick targets among the covered tokens and context among the others, at random and disjoint.

    Rows with fewer covered tokens than `target_length`, or fewer others than `context_length`, are filled with random
    tokens of the other kind.

    Args:
        covered: bool array (B, N).
        context_length, target_length: tokens to pick per row, together at most N.
        keys: uint64 array (B, N) of random keys.

    Returns:
        Sorted int64 indices of the context (B, context_length) and of the target (B, target_length).

    Example:
        >>> import numpy as np
        >>> covered = np.array([[True, True, False, False]])
        >>> context, target = split_at_random(covered, 2, 2, np.array([[8, 9, 8, 7]], dtype=np.uint64) << 32)
        >>> context.tolist(), target.tolist()
        ([[2, 3]], [[0, 1]])
    """
    rows, num_tokens = covered.shape
    bits = np.uint64(num_tokens.bit_length())  # the lowest bits hold the index, so that no two ranks are equal
    rank = (keys >> (bits + np.uint64(1)) << bits) | np.arange(num_tokens, dtype=np.uint64)
    rank |= (~covered).astype(np.uint64) << np.uint64(63)  # covered tokens first, in random order
    last_target, first_context = target_length - 1, num_tokens - context_length
    ordered = np.sort(rank, axis=1)  # faster than np.partition for two places
    context = np.flatnonzero(rank >= ordered[:, first_context, None]) % num_tokens
    target = np.flatnonzero(rank <= ordered[:, last_target, None]) % num_tokens
    return context.reshape(rows, context_length), target.reshape(rows, target_length)


__all__ = [
    "Masks",
    "batch_indices",
    "block_size",
    "box_indices",
    "keep_random_tokens",
    "rasterize_boxes",
    "split_at_random",
    "union_of_boxes",
]
