"""The picture of a run: the loss beside the signals that tell learning from collapse."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_jepa.visualization.figures import new_figure, save_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#2e86ab", "#d1495b", "#3c9d6b", "#e0912f", "#7b5ea7", "#1a1a1a")
_PANEL = (3.4, 2.6)  # inches
_MAX_MARKED = 30  # more points than this are a line without dots


def draw_training_curves(
    log_history: Sequence[Mapping[str, Any]],
    panels: Mapping[str, Sequence[str]],
    path: str | Path,
    title: str | None = None,
) -> Path:
    """Draw logged values over the optimizer steps, a panel per group.

    Args:
        log_history: as `trainer.state.log_history`: mappings with "step" and any of the keys asked for. Entries
            without a key are passed over; values that are not finite leave a gap.
        panels: title of a panel -> the keys drawn in it. Keys that no entry holds are left out, and so is a panel
            without any.
        path: PNG to write.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: no entry holds any of the keys.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> history = [{"step": s, "loss": 1 / s, "rankme": 2.0 * s} for s in (1, 2, 3)]
        >>> panels = {"loss": ["loss"], "RankMe": ["rankme"]}
        >>> draw_training_curves(history, panels, tempfile.mkdtemp() + "/training.png").name
        'training.png'
    """
    logged = {key for entry in log_history if "step" in entry for key in entry}
    found = {name: [key for key in keys if key in logged] for name, keys in panels.items()}
    found = {name: keys for name, keys in found.items() if keys}
    if not found:
        wanted = sorted({key for keys in panels.values() for key in keys})
        raise ValueError(f"none of {wanted} was logged, only {sorted(logged)}: check logging_steps and the names")
    columns = min(len(found), 3)
    rows = -(-len(found) // columns)
    figure = new_figure(_PANEL[0] * columns, _PANEL[1] * rows + (0.3 if title else 0))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (name, keys) in zip(axes, found.items(), strict=False):
        for color, key in zip(_COLORS, keys, strict=False):
            _draw_line(panel, log_history, key, color)
        _finish_panel(panel, name, show_legend=len(keys) > 1)
    for panel in axes[len(found) :]:
        panel.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10)
    return save_figure(figure, path)


def _draw_line(panel: "Axes", log_history: Sequence[Mapping[str, Any]], key: str, color: str) -> None:
    points = [(entry["step"], float(entry[key])) for entry in log_history if "step" in entry and key in entry]
    steps, values = zip(*points, strict=True)
    marker = "." if len(points) <= _MAX_MARKED else None
    panel.plot(steps, values, color=color, linewidth=1.4, marker=marker, markersize=4, label=key.replace("_", " "))


def _finish_panel(panel: "Axes", name: str, show_legend: bool) -> None:
    panel.set_title(name, fontsize=9)
    panel.set_xlabel("step", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(color="0.9", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.ticklabel_format(axis="y", useOffset=False)
    if show_legend:
        panel.legend(fontsize=7, frameon=False)


__all__ = ["draw_training_curves"]
