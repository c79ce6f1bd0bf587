"""What every mask sampler returns, and the array operations that samplers of images, video and audio share."""

from typing import NamedTuple

import numpy as np
import torch


class Masks(NamedTuple):
    """The token masks of one batch.

    Args:
        context_mask: one LongTensor (B, K_context) per context, the tokens the context encoder sees.
        target_mask: one LongTensor (B, K_target) per target, the tokens the predictor must predict.

    Indices count the token grid row-major and are sorted; all masks of a list have one length.

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


__all__ = ["Masks", "batch_indices", "box_indices", "keep_random_tokens", "rasterize_boxes"]
