"""Pictures of masks of clips: what the context encoder sees frame by frame, and how often each token is which."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_jepa.masking.masks import Masks
from hf_jepa.masking.statistics import MaskStatistics
from hf_jepa.visualization.figures import frame_picture, hide_ticks, label_row, new_figure, save_figure
from hf_jepa.visualization.masks import check_indices, token_mask, unit_pixels


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TARGET_COLOR = (0.82, 0.29, 0.36)  # as the first target of an image
_TINT = 0.62  # how much of the colour covers a target token
_FADE = 0.9  # how much white covers a token that is neither
_BLANK_GREY = 0.55  # stands for the clip where none is given
_MAX_COLUMNS = 16
_PANEL, _NARROWEST = 1.15, 5.6  # inches


def draw_video_masks(
    video: np.ndarray | None,
    masks: Masks,
    grid_size: tuple[int, int, int],
    path: str | Path,
    *,
    max_samples: int = 2,
    title: str | None = None,
) -> Path:
    """Draw the mask pairs of a batch of clips: a row per sample and pair, a column per token frame.

    Context tokens show the clip, target tokens its brightness in red, tokens that are neither are white. Of clips of
    more than 16 token frames, 16 evenly spaced ones are drawn. Above is the clip itself, where one is given.

    Args:
        video: (T, H, W, 3), the same clip for every sample; uint8, or float in [0, 1]. T is a multiple of the token
            frames; a token shows its first frame. One frame stands for all. None draws the masks alone.
        masks: mask pairs of B samples on the CPU.
        grid_size: (frames, rows, columns) of the token grid.
        path: PNG to write.
        max_samples: samples drawn at most.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: clip or masks do not fit `grid_size`.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile, torch
        >>> from hf_jepa import MultiBlock3dMaskSampler
        >>> masks = MultiBlock3dMaskSampler((4, 6, 6))(torch.arange(1), step=0)
        >>> draw_video_masks(None, masks, (4, 6, 6), tempfile.mkdtemp() + "/masks.png").name
        'masks.png'
    """
    num_tokens = int(np.prod(grid_size))
    if len(masks.context_mask) != len(masks.target_mask):
        raise ValueError(
            f"masks of a clip are pairs, got {len(masks.context_mask)} contexts and {len(masks.target_mask)} targets: "
            "draw masks of images with draw_masks"
        )
    check_indices(masks, num_tokens)
    clip = _as_clip(video, grid_size)
    shown = np.unique(np.linspace(0, grid_size[0] - 1, min(grid_size[0], _MAX_COLUMNS)).round().astype(int))
    rows = [
        (sample, pair)
        for sample in range(min(len(masks.context_mask[0]), max_samples))
        for pair in range(len(masks.context_mask))
    ]
    height = _PANEL * clip.shape[1] / clip.shape[2] + 0.08
    num_plain = 0 if video is None else 1
    num_lines = len(rows) + num_plain
    figure = new_figure(max(1.35 + _PANEL * len(shown), _NARROWEST), height * num_lines + 0.55, title)
    axes = figure.subplots(num_lines, len(shown), squeeze=False)
    for line in axes[:num_plain]:
        for panel, frame in zip(line, shown, strict=True):
            _show(panel, clip[frame])
        label_row(line[0], "clip")
    for line, (sample, pair) in zip(axes[num_plain:], rows, strict=True):
        context, target = (
            token_mask(group[pair][sample], grid_size) for group in (masks.context_mask, masks.target_mask)
        )
        for panel, frame in zip(line, shown, strict=True):
            _draw_frame(panel, clip[frame], context[frame], target[frame])
        label_row(line[0], f"sample {sample + 1}, mask {pair + 1}\ncontext {context.sum()}\ntarget {target.sum()}")
    for panel, frame in zip(axes[0], shown, strict=True):
        panel.set_title(f"frame {frame + 1}", fontsize=8)
    _draw_legend(figure, num_tokens)
    return save_figure(figure, path)


def draw_video_mask_distribution(statistics: Mapping[str, list[MaskStatistics]], path: str | Path) -> Path:
    """Draw how often each token is context and target: a row per sampler, mask pair and kind, a column per frame.

    Args:
        statistics: name of a sampler -> `hf_jepa.masking.video_statistics.measure_video_masks(sampler)`, all of one
            grid.
        path: PNG to write.

    Returns:
        The path written.

    Raises:
        ValueError: nothing to draw, or samplers of different grids or numbers of mask pairs.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> from hf_jepa import MultiBlock3dMaskSampler
        >>> from hf_jepa.masking.video_statistics import measure_video_masks
        >>> statistics = {"corrected": measure_video_masks(MultiBlock3dMaskSampler((4, 6, 6)), num_steps=5)}
        >>> draw_video_mask_distribution(statistics, tempfile.mkdtemp() + "/distribution.png").name
        'distribution.png'
    """
    if not statistics:
        raise ValueError("no statistics to draw: pass at least one sampler's")
    shapes = {(len(pairs), *pairs[0].context_probability.shape) for pairs in statistics.values()}
    if len(shapes) > 1:
        raise ValueError(f"statistics of different samplers: (pairs, frames, rows, columns) are {sorted(shapes)}")
    num_pairs, frames, rows, columns = shapes.pop()
    shown = np.unique(np.linspace(0, frames - 1, min(frames, _MAX_COLUMNS)).round().astype(int))
    lines = [(pair, kind, name) for pair in range(num_pairs) for kind in ("context", "target") for name in statistics]
    height = 0.9 * rows / columns
    figure = new_figure(max(2.4 + 0.9 * len(shown), _NARROWEST), (height + 0.14) * len(lines) + 0.5)
    axes = figure.subplots(len(lines), len(shown), squeeze=False)
    for pair in range(num_pairs):
        for kind, colors in (("context", "viridis"), ("target", "magma")):
            at = [i for i, line in enumerate(lines) if line[:2] == (pair, kind)]
            maps = [getattr(statistics[lines[i][2]][pair], f"{kind}_probability").numpy() for i in at]
            highest = max(values.max() for values in maps)
            for i, values in zip(at, maps, strict=True):
                for panel, frame in zip(axes[i], shown, strict=True):
                    picture = panel.imshow(values[frame], vmin=0.0, vmax=highest, cmap=colors)
                    panel.set_xlabel(f"{values[frame].mean():.2f}", fontsize=6, labelpad=1)
                    hide_ticks(panel)
                label_row(axes[i, 0], f"mask {pair + 1}, {kind}\n{lines[i][2]}")
            bar = figure.colorbar(picture, ax=axes[at].ravel().tolist(), shrink=0.85, pad=0.01, aspect=16)
            bar.ax.tick_params(labelsize=6)
            bar.set_label("probability", fontsize=7)
    for panel, frame in zip(axes[0], shown, strict=True):
        panel.set_title(f"frame {frame + 1}", fontsize=8)
    return save_figure(figure, path)


def _as_clip(video: np.ndarray | None, grid_size: tuple[int, int, int]) -> np.ndarray:
    """Float frames in [0, 1], one per token frame, of as many pixels per token in both directions: (T', H, W, 3)."""
    frames, rows, columns = grid_size
    if video is None:
        return np.full((frames, rows * 8, columns * 8, 3), _BLANK_GREY)
    video = np.asarray(video)
    if video.ndim != 4 or video.shape[-1] != 3 or (len(video) != 1 and len(video) % frames) or len(video) == 0:
        raise ValueError(
            f"video has shape {video.shape}: expected (T, H, W, 3) with T = 1 or a multiple of {frames} token frames"
        )
    if video.shape[1] < rows or video.shape[2] < columns:
        raise ValueError(f"video has shape {video.shape}: too small for a grid of {rows} x {columns} tokens")
    video = video[:: max(1, len(video) // frames)]
    return np.broadcast_to(unit_pixels(video, "video"), (frames, *video.shape[1:]))


def _draw_frame(panel: "Axes", frame: np.ndarray, context: np.ndarray, target: np.ndarray) -> None:
    row = np.arange(frame.shape[0]) * context.shape[0] // frame.shape[0]
    column = np.arange(frame.shape[1]) * context.shape[1] // frame.shape[1]
    is_context, is_target = (mask[row[:, None], column][..., None] for mask in (context, target))
    shown = np.where(is_context, frame, _FADE + (1 - _FADE) * frame)
    brightness = frame.mean(axis=-1, keepdims=True)
    _show(panel, np.where(is_target, _TINT * np.array(_TARGET_COLOR) + (1 - _TINT) * brightness, shown))


def _show(panel: "Axes", pixels: np.ndarray) -> None:
    panel.imshow(pixels, interpolation="nearest")
    frame_picture(panel)


def _draw_legend(figure: "Figure", num_tokens: int) -> None:
    from matplotlib.patches import Patch

    tinted = [_TINT * value + (1 - _TINT) * _BLANK_GREY for value in _TARGET_COLOR]
    handles = [
        Patch(facecolor=str(_BLANK_GREY), label="context: the encoder sees it"),
        Patch(facecolor=tinted, label="target: the predictor must predict it"),
        Patch(facecolor="white", edgecolor="#bbbbbb", label="neither"),
    ]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    legend.set_title(f"{num_tokens} tokens", prop={"size": 7})


__all__ = ["draw_video_mask_distribution", "draw_video_masks"]
