"""The picture of a run: the loss beside the signals that tell learning from collapse."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_jepa.visualization.figures import finish_axes, line_colors, new_panels, save_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    figure, axes = new_panels(len(found), 3, _PANEL, title)
    for panel, (name, keys) in zip(axes, found.items(), strict=True):
        for color, key in zip(line_colors(len(keys)), keys, strict=True):
            _draw_line(panel, log_history, key, color)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("step", fontsize=8)
        panel.ticklabel_format(axis="y", useOffset=False)
        if len(keys) > 1:
            panel.legend(fontsize=7, frameon=False)
        finish_axes(panel)
    return save_figure(figure, path)


def _draw_line(panel: "Axes", log_history: Sequence[Mapping[str, Any]], key: str, color: str) -> None:
    points = [(entry["step"], float(entry[key])) for entry in log_history if "step" in entry and key in entry]
    steps, values = zip(*points, strict=True)
    marker = "." if len(points) <= _MAX_MARKED else None
    panel.plot(steps, values, color=color, linewidth=1.4, marker=marker, markersize=4, label=key.replace("_", " "))


__all__ = ["draw_training_curves"]
