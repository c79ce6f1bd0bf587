"""The picture of a comparison of objectives: what their features are worth, and what training costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from hf_jepa.visualization.figures import finish_axes, new_figure, save_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KNN, _LINEAR, _COST = "#2e86ab", "#e0912f", "#8d99ae"
_PANELS = {
    "rankme": ("RankMe: directions in which features differ", "#3c9d6b"),
    "cpu_ms": ("CPU time of a step in ms", _COST),
    "memory_mib": ("peak memory of a step in MiB", _COST),
}


def draw_objectives(
    rows: Mapping[str, Sequence[Mapping[str, float]]],
    path: str | Path,
    references: Sequence[str] = (),
    title: str | None = None,
) -> Path:
    """Draw one line per row: accuracies of every seed, and the mean over seeds of RankMe, time and memory.

    Args:
        rows: title of a row -> for every seed a mapping with "knn" and "linear" in [0, 1], and any of "knn_before",
            "rankme", "cpu_ms" and "memory_mib". The first row is drawn at the top.
        path: PNG to write.
        references: rows that are no objective; their names are grey, and their mean k-NN accuracy is a line through
            all rows.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: no row, or a row without a seed.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> rows = {"I-JEPA": [{"knn": 0.5, "linear": 0.6, "rankme": 20.0, "cpu_ms": 40.0}],
        ...         "raw pixels": [{"knn": 0.2, "linear": 0.1}]}
        >>> draw_objectives(rows, tempfile.mkdtemp() + "/objectives.png", references=["raw pixels"]).name
        'objectives.png'
    """
    if empty := [name for name, seeds in rows.items() if not seeds]:
        raise ValueError(f"{empty[0]!r} has no result")
    if not rows:
        raise ValueError("there is no row to draw")
    panels = [name for name in _PANELS if any(name in seed for seeds in rows.values() for seed in seeds)]
    figure = new_figure(6.4 + 2.4 * len(panels), 1.1 + 0.36 * len(rows), title)
    widths = [2.2, *[1.0] * len(panels)]
    axes = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
    _draw_accuracies(axes[0], rows, references)
    for panel, name in zip(axes[1:], panels, strict=True):
        _draw_bars(panel, rows, name)
    axes[0].set_yticks(range(len(rows)), list(rows), fontsize=8)
    for label in axes[0].get_yticklabels():
        label.set_color("0.45" if label.get_text() in references else "black")
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return save_figure(figure, path)


def _draw_accuracies(
    panel: "Axes", rows: Mapping[str, Sequence[Mapping[str, float]]], references: Sequence[str]
) -> None:
    for name in references:
        if name in rows:
            panel.axvline(fmean(seed["knn"] for seed in rows[name]), color="0.75", linewidth=1, linestyle="--")
    for kind, color, shift in (("knn", _KNN, -0.13), ("linear", _LINEAR, 0.13)):
        points = [(seed[kind], y + shift) for y, seeds in enumerate(rows.values()) for seed in seeds]
        means = [fmean(seed[kind] for seed in seeds) for seeds in rows.values()]
        panel.plot(*zip(*points, strict=True), "o", color=color, markersize=4, alpha=0.55, markeredgewidth=0)
        label = {"knn": "k-NN", "linear": "linear probe"}[kind]
        heights = [y + shift for y in range(len(rows))]
        panel.plot(means, heights, "|", color=color, markersize=11, markeredgewidth=2, label=label)
    starts = [(fmean(seed["knn_before"] for seed in seeds), y - 0.13) for y, seeds in _trained(rows)]
    if starts:
        style = {"markersize": 5, "markerfacecolor": "none", "label": "k-NN before training"}
        panel.plot(*zip(*starts, strict=True), "o", color="0.5", **style)
    panel.set_title("accuracy (dots: seeds, bars: mean; dashed: k-NN of the grey rows)", fontsize=8)
    panel.legend(fontsize=7, frameon=False, loc="best")
    finish_axes(panel)


def _trained(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> list[tuple[int, Sequence[Mapping[str, float]]]]:
    """Place and seeds of the rows that say where they started."""
    return [(y, seeds) for y, seeds in enumerate(rows.values()) if all("knn_before" in seed for seed in seeds)]


def _draw_bars(panel: "Axes", rows: Mapping[str, Sequence[Mapping[str, float]]], name: str) -> None:
    title, color = _PANELS[name]
    for y, seeds in enumerate(rows.values()):
        if values := [seed[name] for seed in seeds if name in seed]:
            mean = fmean(values)
            panel.barh(y, mean, color=color, height=0.6)
            panel.annotate(f"{mean:.0f}", (mean, y), (2, 0), textcoords="offset points", va="center", fontsize=7)
    panel.set_title(title, fontsize=8)
    panel.margins(x=0.15)
    finish_axes(panel)


__all__ = ["draw_objectives"]
