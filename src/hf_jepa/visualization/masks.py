"""Pictures of masks: what the context encoder sees and what it must predict, and how often each token is which."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_jepa.masking.masks import Masks
from hf_jepa.masking.statistics import MaskStatistics
from hf_jepa.visualization.figures import hide_ticks, new_figure, save_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CONTEXT_COLOR = "#1a1a1a"
_TARGET_COLORS = ("#d1495b", "#2e86ab", "#e0912f", "#3c9d6b", "#7b5ea7", "#8c6d46")
_BLANK_GREY = 0.72  # stands for the image where none is given
_FADE = 0.88  # how much white covers what a mask leaves out


def draw_masks(
    image: np.ndarray | None,
    masks: Masks,
    grid_size: tuple[int, int],
    path: str | Path,
    *,
    max_rows: int = 4,
    title: str | None = None,
) -> Path:
    """Draw the masks of a batch: a row per sample with the image, every context and every target.

    Args:
        image: (H, W, 3), the same image for every sample, or (B, H, W, 3), one per sample; uint8, or float in [0, 1].
            None draws the masks alone.
        masks: masks of B samples on the CPU.
        grid_size: (rows, columns) of the token grid.
        path: PNG to write.
        max_rows: samples drawn at most.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: images or masks do not fit `grid_size` or one another.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile, torch
        >>> from hf_jepa.masking.multiblock import MultiBlockMaskSampler
        >>> masks = MultiBlockMaskSampler(14)(torch.arange(2), step=0)
        >>> draw_masks(None, masks, (14, 14), tempfile.mkdtemp() + "/masks.png").name
        'masks.png'
    """
    rows, columns = grid_size
    num_samples = masks.context_mask[0].shape[0]
    check_indices(masks, rows * columns)
    images = _as_images(image, num_samples, grid_size)
    num_rows = min(num_samples, max_rows)
    num_panels = 1 + len(masks.context_mask) + len(masks.target_mask)
    width = 1.7
    figure = new_figure(width * num_panels, num_rows * (width * images.shape[1] / images.shape[2]) + 0.25, title)
    axes = figure.subplots(num_rows, num_panels, squeeze=False)
    for i in range(num_rows):
        contexts = [token_mask(mask[i], grid_size) for mask in masks.context_mask]
        targets = [token_mask(mask[i], grid_size) for mask in masks.target_mask]
        _draw_image(axes[i, 0], images[i], grid_size)
        for m, target in enumerate(targets):
            _draw_outline(axes[i, 0], target, _TARGET_COLORS[m % len(_TARGET_COLORS)])
        for e, context in enumerate(contexts):
            _draw_image(axes[i, 1 + e], _fade(images[i], context), grid_size)
            _draw_outline(axes[i, 1 + e], context, _CONTEXT_COLOR, width=0.6)
        for m, target in enumerate(targets):
            panel = axes[i, 1 + len(contexts) + m]
            _draw_image(panel, _fade(images[i], target), grid_size)
            _draw_outline(panel, target, _TARGET_COLORS[m % len(_TARGET_COLORS)])
    for panel, label in zip(axes[0], _panel_labels(masks, rows * columns), strict=True):
        panel.set_title(label, fontsize=8)
    return save_figure(figure, path)


def draw_mask_distribution(statistics: Mapping[str, MaskStatistics], path: str | Path) -> Path:
    """Draw how often each token is in the context, and in one target block: a row of two heat maps per sampler.

    Args:
        statistics: name of a sampler -> `hf_jepa.masking.statistics.measure_masks(sampler)`.
        path: PNG to write.

    Returns:
        The path written.

    Raises:
        ValueError: nothing to draw.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> from hf_jepa.masking.multiblock import MultiBlockMaskSampler
        >>> from hf_jepa.masking.statistics import measure_masks
        >>> statistics = {"corrected": measure_masks(MultiBlockMaskSampler(14), num_steps=5)}
        >>> draw_mask_distribution(statistics, tempfile.mkdtemp() + "/distribution.png").name
        'distribution.png'
    """
    if not statistics:
        raise ValueError("no statistics to draw: pass at least one sampler's")
    figure = new_figure(6.4, 2.75 * len(statistics))
    axes = figure.subplots(len(statistics), 2, squeeze=False)
    for kind, column, colors in (("context", 0, "viridis"), ("target", 1, "magma")):
        maps = [getattr(measured, f"{kind}_probability").numpy() for measured in statistics.values()]
        highest = max(values.max() for values in maps)
        for panel, name, values in zip(axes[:, column], statistics, maps, strict=True):
            picture = panel.imshow(values, vmin=0.0, vmax=highest, cmap=colors)
            hide_ticks(panel)
            panel.set_title(f"{name}: {'in the context' if kind == 'context' else 'in one target block'}", fontsize=9)
            if values.min() == 0:
                panel.set_xlabel(f"{int((values == 0).sum())} of {values.size} tokens never", fontsize=8)
        figure.colorbar(picture, ax=axes[:, column], shrink=0.8, label="probability")
    return save_figure(figure, path)


def check_indices(masks: Masks, num_tokens: int) -> None:
    """Refuse masks of a larger grid.

    Raises:
        ValueError: a mask names a token that the grid lacks.
    """
    largest = max(int(mask.max()) for mask in (*masks.context_mask, *masks.target_mask))
    if largest >= num_tokens:
        raise ValueError(f"a mask names token {largest}, but the grid has {num_tokens}: pass the masks' own grid_size")


def _as_images(image: np.ndarray | None, num_samples: int, grid_size: tuple[int, int]) -> np.ndarray:
    """Float images in [0, 1], (B, H, W, 3)."""
    if image is None:
        return np.full((num_samples, grid_size[0] * 8, grid_size[1] * 8, 3), _BLANK_GREY)
    image = np.asarray(image)
    if image.ndim not in (3, 4) or image.shape[-1] != 3 or (image.ndim == 4 and len(image) != num_samples):
        raise ValueError(f"image has shape {image.shape}: expected (H, W, 3) or ({num_samples}, H, W, 3)")
    if image.shape[-3] < grid_size[0] or image.shape[-2] < grid_size[1]:
        raise ValueError(
            f"image has shape {image.shape}: too small for a grid of {grid_size[0]} x {grid_size[1]} tokens"
        )
    image = unit_pixels(image, "image")
    return image if image.ndim == 4 else np.broadcast_to(image, (num_samples, *image.shape))


def unit_pixels(pixels: np.ndarray, what: str) -> np.ndarray:
    """Float pixels in [0, 1], of such or of uint8.

    Raises:
        ValueError: values beyond; the message calls them `what`.
    """
    pixels = pixels / 255.0 if pixels.dtype == np.uint8 else pixels.astype(np.float64)
    if pixels.min() < 0 or pixels.max() > 1:
        raise ValueError(
            f"{what} values run from {pixels.min():.2f} to {pixels.max():.2f}: pass uint8, or float in [0, 1]"
        )
    return pixels


def token_mask(indices: torch.Tensor, grid_size: tuple[int, ...]) -> np.ndarray:
    """bool array of the shape of the token grid, true at these row-major indices (K,)."""
    mask = np.zeros(grid_size, dtype=bool)
    mask.reshape(-1)[indices.numpy()] = True
    return mask


def _fade(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Cover the tokens that are not kept with white; the image need not be a multiple of the grid."""
    row = np.arange(image.shape[0]) * kept.shape[0] // image.shape[0]
    column = np.arange(image.shape[1]) * kept.shape[1] // image.shape[1]
    visible = kept[row[:, None], column][..., None]  # (H, W, 1)
    return np.where(visible, image, _FADE + (1 - _FADE) * image)


def _draw_image(panel: "Axes", image: np.ndarray, grid_size: tuple[int, int]) -> None:
    rows, columns = grid_size
    aspect = (image.shape[0] / rows) / (image.shape[1] / columns)  # height / width of a token in the image
    panel.imshow(image, extent=(0, columns, rows, 0), aspect=aspect, interpolation="nearest")
    panel.set_axis_off()


def _draw_outline(panel: "Axes", mask: np.ndarray, color: str, width: float = 1.6) -> None:
    """Draw the border between kept and other tokens."""
    from matplotlib.collections import LineCollection

    padded = np.pad(mask, 1)
    row, column = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])  # borders above row `row`
    horizontal = np.stack([np.stack([column, row], 1), np.stack([column + 1, row], 1)], 1)
    row, column = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])  # borders left of column `column`
    vertical = np.stack([np.stack([column, row], 1), np.stack([column, row + 1], 1)], 1)
    segments = np.concatenate([horizontal, vertical])
    panel.add_collection(
        LineCollection(segments, colors=color, linewidths=width, capstyle="projecting", clip_on=False)
    )


def _panel_labels(masks: Masks, num_tokens: int) -> list[str]:
    labels = ["image and targets"]
    for kind, group in (("context", masks.context_mask), ("target", masks.target_mask)):
        for i, mask in enumerate(group):
            name = kind if len(group) == 1 else f"{kind} {i + 1}"
            labels.append(f"{name}\n{mask.shape[1]} of {num_tokens} tokens")
    return labels


__all__ = ["check_indices", "draw_mask_distribution", "draw_masks", "token_mask", "unit_pixels"]
