"""The picture of a stream: where its embeddings change, where it was decoded, and what is known to happen in it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_jepa.visualization.figures import line_colors, new_figure, save_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHADES = ("#dce9f1", "#f6dfe2")  # of segments, in turn
_LINE = "#2e86ab"
_LETTER = 0.011  # of the width: an event that is too short for its name is drawn without


def draw_stream(
    times: Sequence[float],
    variance: Sequence[float],
    decodes: Mapping[str, Sequence[int]],
    path: str | Path,
    *,
    segments: Sequence[int] | None = None,
    events: Sequence[tuple[float, float, str]] = (),
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    threshold: float | None = None,
    title: str | None = None,
) -> Path:
    """Draw a stream over time: its variance, its segments and events, and the decodes of several rules.

    Args:
        times: (T,) seconds, ascending.
        variance: (T,), such as `window_variance`.
        decodes: name of a rule -> indices of the embeddings that it decodes. Each is a row of marks.
        path: PNG to write.
        segments: (N,) first index of every segment, such as `Segments.starts`; shaded in turn behind the decodes.
        events: what is known, as (first second, last second, name); those of one name have one colour.
        curves: name of a rule -> (numbers of decodes, scores), such as `decode_curves`: a panel of its own.
        threshold: of the variance, drawn as a line.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: no embedding, not one variance for each, no decode, or indices beyond the stream (named).
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/stream.png"
        >>> decodes = {"selective": [1, 4], "uniform": [0, 2, 4]}
        >>> events = [(0, 3, "walks"), (3, 5, "sits")]
        >>> draw_stream(range(6), [0, 0, 0, 1, 0, 0], decodes, path, segments=[0, 3], events=events).name
        'stream.png'
    """
    times, variance = np.asarray(times, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    marks = {name: _indices(found, len(times), name) for name, found in decodes.items()}
    starts = None if segments is None else _indices(segments, len(times), "segments")
    if times.ndim != 1 or not len(times) or variance.shape != times.shape:
        raise ValueError(f"times {times.shape} and variance {variance.shape}: expected (T,) both, T at least 1")
    if not marks:
        raise ValueError("there is nothing to compare: give the decodes of at least one rule")
    rows = len(marks) + bool(events)
    figure = new_figure(8.0, 1.7 + 0.35 * rows + (2.4 if curves else 0), title)
    heights = [1.5, 0.35 * rows + 0.2] + ([2.2] if curves else [])
    top, lanes, *below = figure.subplots(len(heights), 1, height_ratios=heights)
    lanes.sharex(top)
    top.plot(times, variance, color=_LINE, linewidth=1.0)
    if threshold is not None:
        top.axhline(threshold, color="0.4", linewidth=0.8, linestyle="--")
    top.set_ylabel("variance", fontsize=8)
    top.set_ylim(0, None)
    margin = 0.01 * (times[-1] - times[0]) or 0.5
    top.set_xlim(times[0] - margin, times[-1] + margin)
    colors = _colors_of([*marks, *(curves or {})])
    _draw_lanes(lanes, times, marks, starts, events, colors)
    for panel in below:
        _draw_curves(panel, curves or {}, colors)
    for panel in (top, lanes, *below):
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)


def _colors_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name."""
    different = dict.fromkeys(names)
    return dict(zip(different, line_colors(len(different)), strict=True))


def _indices(found: Sequence[int], count: int, name: str) -> np.ndarray:
    indices = np.asarray(found)
    if indices.ndim != 1 or not len(indices) or indices.dtype.kind not in "iu":
        raise ValueError(f"{name!r} must hold indices of embeddings, at least one, got {found!r}")
    if indices.min() < 0 or indices.max() >= count:
        raise ValueError(f"{name!r} spans {indices.min()} to {indices.max()}, but the stream has {count} embeddings")
    return indices


def _draw_lanes(
    lanes: "Axes",
    times: np.ndarray,
    marks: Mapping[str, np.ndarray],
    starts: np.ndarray | None,
    events: Sequence[tuple[float, float, str]],
    colors: Mapping[str, str],
) -> None:
    """Events in the uppermost row, below them one row of marks for each rule, before the shaded segments."""
    if starts is not None:
        edges = [*times[starts], times[-1]]
        for number, (first, last) in enumerate(pairwise(edges)):
            lanes.axvspan(first, last, color=_SHADES[number % 2], linewidth=0)
    for row, (name, indices) in enumerate(marks.items()):
        style = {"color": colors[name], "markersize": 9, "markeredgewidth": 1.4}
        lanes.plot(times[indices], np.full(len(indices), row), "|", **style)
    labels = [f"{name} ({len(indices)})" for name, indices in marks.items()]
    if events:
        shown = _colors_of([name for *_, name in events])
        for first, last, name in events:
            lanes.barh(len(marks), last - first, left=first, height=0.7, color=shown[name], alpha=0.6, linewidth=0)
            if last - first > _LETTER * len(name) * (times[-1] - times[0]):
                style = {"ha": "center", "va": "center", "fontsize": 6, "parse_math": False, "clip_on": True}
                lanes.text((first + last) / 2, len(marks), name, **style)
        labels.append("events")
    lanes.set_yticks(range(len(labels)), labels)
    lanes.set_ylim(-0.6, len(labels) - 0.4)
    lanes.set_xlabel("seconds", fontsize=8)


def _draw_curves(
    panel: "Axes", curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], colors: Mapping[str, str]
) -> None:
    for name, (counts, scores) in curves.items():
        panel.plot(counts, scores, ".-", color=colors[name], linewidth=1.2, markersize=4, label=name)
    panel.set_xlabel("decodes", fontsize=8)
    panel.set_ylabel("score", fontsize=8)
    panel.grid(color="0.9", linewidth=0.6)
    panel.legend(fontsize=7, frameon=False)


__all__ = ["draw_stream"]
