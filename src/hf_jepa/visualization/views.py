"""Picture of the views that a multi-view objective compares."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hf_jepa.visualization.figures import new_figure, save_figure


_PANEL = 1.3  # inches of a global view


def draw_views(
    views: torch.Tensor | Sequence[torch.Tensor],
    path: str | Path,
    *,
    images: Sequence[np.ndarray] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    max_rows: int = 6,
    title: str | None = None,
) -> Path:
    """Draw the views of a batch: a row per sample, first the image if given, then global and local views.

    Views of a smaller size are drawn smaller, pixel for pixel.

    Args:
        views: (B, V, 3, H, W), or a list of such groups, one size each, global ones first.
        path: PNG to write.
        images: B pictures (H, W, 3) or (H, W), uint8 or floats in [0, 1], that the views are of.
        mean, std: of the normalisation that the views went through, per channel. Without them uint8 views and floats
            in [0, 1] are drawn as they are, and of other floats every view from its darkest to its brightest value.
        max_rows: samples drawn at most.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: views or images of another shape, no views at all.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> views = [torch.rand(4, 2, 3, 32, 32), torch.rand(4, 3, 3, 16, 16)]
        >>> draw_views(views, tempfile.mkdtemp() + "/views.png").name
        'views.png'
    """
    groups = [views] if isinstance(views, torch.Tensor) else list(views)
    shapes = [tuple(group.shape) for group in groups]
    if not groups or any(len(shape) != 5 or shape[2] != 3 for shape in shapes) or len({s[0] for s in shapes}) != 1:
        raise ValueError(f"views must be (B, V, 3, H, W), or a list of such groups of one B, got {shapes}")
    if images is not None and len(images) != shapes[0][0]:
        raise ValueError(f"{len(images)} images do not go with the views of {shapes[0][0]}")
    shown = [_as_pictures(group[:max_rows].detach().cpu(), mean, std) for group in groups]
    rows, largest = len(shown[0]), max(shape[-2] for shape in shapes)
    columns = [(g, v) for g, shape in enumerate(shapes) for v in range(shape[1])]
    widths = [1.0] * (images is not None) + [shapes[g][-1] / largest for g, _ in columns]
    figure = new_figure(_PANEL * sum(widths) + 0.12 * len(widths), _PANEL * rows + 0.3, title)
    axes = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths)
    for row in range(rows):
        panels = iter(axes[row])
        if images is not None:
            panel = next(panels)
            panel.imshow(images[row], cmap="gray")
            panel.set_title("image" if row == 0 else "", fontsize=8)
        for (g, v), panel in zip(columns, panels, strict=True):
            panel.imshow(shown[g][row, v], interpolation="nearest")
            if row == 0:
                panel.set_title(_label(shapes, g, v), fontsize=8)
    for panel in axes.flat:
        panel.set_axis_off()
    return save_figure(figure, path)


def _label(shapes: Sequence[tuple[int, ...]], group: int, view: int) -> str:
    kind = "view" if len(shapes) == 1 else "local" if group else "global"
    return f"{kind} {view + 1}"


def _as_pictures(
    pixels: torch.Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> np.ndarray:  # (B, V, H, W, 3)
    if pixels.dtype == torch.uint8:
        pixels = pixels / 255
    elif mean is not None and std is not None:
        pixels = pixels.float() * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    elif pixels.min() < 0 or pixels.max() > 1:
        low, high = (extreme(pixels.float(), (-3, -2, -1), keepdim=True) for extreme in (torch.amin, torch.amax))
        pixels = (pixels - low) / (high - low).clamp(min=1e-6)
    return pixels.clamp(0, 1).permute(0, 1, 3, 4, 2).numpy()


__all__ = ["draw_views"]
