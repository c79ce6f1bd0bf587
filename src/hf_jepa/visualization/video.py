"""Pictures over time: principal components of a clip's tokens, and what in a clip a model did not expect."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_jepa.visualization.figures import finish_axes, frame_picture, label_row, line_colors, new_figure, save_figure
from hf_jepa.visualization.pca import pca_colors


if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL = 1.5  # inches, the width of a frame
_LABEL = 1.1  # inches, left of a row


def draw_video_pca(
    frames: np.ndarray,
    features: Mapping[str, torch.Tensor],
    path: str | Path,
    *,
    max_columns: int = 8,
    title: str | None = None,
) -> Path:
    """Draw a clip above maps of its tokens over time, coloured by their first three principal components.

    The components are fitted on all tokens of all maps together: one colour means one thing in all of them, at every
    moment and at every resolution.

    Args:
        frames: (T, H, W) or (T, H, W, 3), uint8, or float in [0, 1].
        features: title of a row -> tokens (T', H', W', D) of these frames, T a multiple of T'; D the same in all rows.
        path: PNG to write.
        max_columns: moments drawn at most, evenly spaced from the beginning.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: nothing to draw, tokens of another shape, or of more or other moments than the frames; see also
            `pca_colors`.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> frames, tokens = np.zeros((8, 32, 48)), torch.randn(4, 4, 6, 16)
        >>> draw_video_pca(frames, {"32 px": tokens}, tempfile.mkdtemp() + "/pca.png").name
        'pca.png'
    """
    frames = np.asarray(frames)
    shapes = [tuple(tokens.shape) for tokens in features.values()]
    if not shapes or any(len(shape) != 4 or shape[3] != shapes[0][3] or len(frames) % shape[0] for shape in shapes):
        raise ValueError(
            f"tokens of shapes {shapes} for {len(frames)} frames: expected (T', H', W', D), T' a divisor of the "
            "number of frames and D the same in all"
        )
    colors = pca_colors(torch.cat([tokens.flatten(0, 2).float().cpu() for tokens in features.values()]).unsqueeze(0))
    parts = np.split(colors[0], np.cumsum([np.prod(shape[:3]) for shape in shapes])[:-1])
    moments = _moments(min(shape[0] for shape in shapes), max_columns)
    rows = {f"{frames.shape[1]} x {frames.shape[2]} pixels": frames}
    rows |= {name: part.reshape(*shape[:3], 3) for name, part, shape in zip(features, parts, shapes, strict=True)}
    figure, axes = _strip(len(rows), len(moments), frames.shape[1] / frames.shape[2], title)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        label_row(line[0], name)
        for panel, moment in zip(line, moments, strict=True):
            picture = pictures[int(moment * len(pictures))]
            _show(panel, picture, frames.shape[1:3])
    for panel, moment in zip(axes[0], moments, strict=True):
        panel.set_title(f"frame {int(moment * len(frames))}", fontsize=7)
    return save_figure(figure, path)


def draw_surprise_curves(
    errors: Mapping[str, torch.Tensor],
    frame: Sequence[int] | torch.Tensor,
    path: str | Path,
    *,
    event_frame: int | None = None,
    title: str | None = None,
) -> Path:
    """Draw the prediction error over time of several sets of clips: the mean, and the band of half of the clips.

    Args:
        errors: name of a set -> (B, F) errors, see `SurpriseCurves`.
        frame: F, the first frame of each group that was predicted.
        path: PNG to write.
        event_frame: marked by a line: when something happens in one of the sets.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: nothing to draw, or errors that do not fit `frame`.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> errors = {"ordinary": torch.rand(5, 3), "with a jump": torch.rand(5, 3)}
        >>> draw_surprise_curves(errors, [2, 4, 6], tempfile.mkdtemp() + "/surprise.png", event_frame=4).name
        'surprise.png'
    """
    frame = [int(number) for number in frame]
    if not errors or any(error.ndim != 2 or error.shape[1] != len(frame) for error in errors.values()):
        shapes = {name: tuple(error.shape) for name, error in errors.items()}
        raise ValueError(f"errors {shapes} do not fit {len(frame)} groups of frames: expected (clips, groups)")
    figure = new_figure(6.0, 3.1, title)
    panel = figure.subplots()
    for color, (name, error) in zip(line_colors(len(errors)), errors.items(), strict=True):
        low, high = error.double().quantile(torch.tensor([0.25, 0.75], dtype=torch.float64), dim=0).numpy()
        panel.fill_between(frame, low, high, color=color, alpha=0.15, linewidth=0)
        panel.plot(frame, error.mean(dim=0).numpy(), color=color, linewidth=1.6, marker=".", label=name)
    if event_frame is not None:
        panel.axvline(event_frame, color="0.35", linewidth=0.9, linestyle="--")
    panel.set_xticks(frame)
    panel.set_xlabel("first of the predicted frames", fontsize=8)
    panel.set_ylabel("prediction error", fontsize=8)
    panel.legend(fontsize=8, frameon=False)
    finish_axes(panel)
    return save_figure(figure, path)


def draw_surprise_strip(
    frames: np.ndarray,
    errors: Mapping[str, torch.Tensor],
    frame: Sequence[int] | torch.Tensor,
    path: str | Path,
    *,
    title: str | None = None,
) -> Path:
    """Draw predicted frames of a clip above maps of where in them the prediction was wrong.

    Args:
        frames: (T, H, W) or (T, H, W, 3), uint8, or float in [0, 1].
        errors: title of a row -> (F, H', W') errors of tokens, see `SurpriseCurves`; all on one colour scale.
        frame: F, the first frame of each group that was predicted.
        path: PNG to write.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: errors that do not fit the frames.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> errors = {"error": torch.rand(3, 4, 4)}
        >>> draw_surprise_strip(np.zeros((8, 32, 32)), errors, [2, 4, 6], tempfile.mkdtemp() + "/where.png").name
        'where.png'
    """
    frames, frame = np.asarray(frames), [int(number) for number in frame]
    if not errors or not frame or not 0 <= min(frame) <= max(frame) < len(frames):
        raise ValueError(f"{len(errors)} rows of errors of frames {frame} for a clip of {len(frames)} frames")
    if wrong := [tuple(error.shape) for error in errors.values() if error.ndim != 3 or len(error) != len(frame)]:
        raise ValueError(f"errors of shape {wrong[0]}: expected (groups, rows, columns) with {len(frame)} groups")
    largest = max(error.max().item() for error in errors.values())
    figure, axes = _strip(1 + len(errors), len(frame), frames.shape[1] / frames.shape[2], title)
    label_row(axes[0][0], "clip")
    for panel, number in zip(axes[0], frame, strict=True):
        _show(panel, frames[number], frames.shape[1:3])
        panel.set_title(f"frame {number}", fontsize=7)
    for line, (name, error) in zip(axes[1:], errors.items(), strict=True):
        label_row(line[0], name)
        for panel, values in zip(line, error.cpu().numpy(), strict=True):
            _show(panel, values, frames.shape[1:3], cmap="magma", vmin=0, vmax=largest)
    return save_figure(figure, path)


def _moments(num_tokens: int, max_columns: int) -> list[float]:
    """Moments as shares of the clip, each the beginning of a group of frames of the coarsest row."""
    every = -(-num_tokens // max_columns)
    return [moment / num_tokens + 1e-9 for moment in range(0, num_tokens, every)]  # a product must not round down


def _strip(rows: int, columns: int, aspect: float, title: str | None):
    figure = new_figure(_LABEL + _PANEL * columns, (_PANEL * aspect + 0.06) * rows + 0.25, title)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(panel: "Axes", picture: np.ndarray, size: tuple[int, int], **scale) -> None:
    scale = scale or {"cmap": "gray", "vmin": 0, "vmax": 255 if picture.dtype == np.uint8 else 1}
    panel.imshow(picture, interpolation="nearest", extent=(0, size[1], size[0], 0), **scale)
    frame_picture(panel)


__all__ = ["draw_surprise_curves", "draw_surprise_strip", "draw_video_pca"]
