"""What every picture needs: a figure without global state, one look, and a PNG that is complete or absent."""

from pathlib import Path
from typing import TYPE_CHECKING

from hf_jepa.hub.files import new_name


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ("#2e86ab", "#d1495b", "#3c9d6b", "#e0912f", "#7b5ea7", "#1a1a1a")
_TITLE = 0.3  # inches


def new_figure(width: float, height: float, title: str | None = None) -> "Figure":
    """An empty matplotlib figure that draws without a display and leaves pyplot alone.

    Args:
        width, height: inches, without the title.
        title: printed above the picture.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "hf_jepa[viz]"') from error
    figure = Figure(figsize=(width, height + (_TITLE if title else 0)), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def new_panels(
    count: int, columns: int, size: tuple[float, float], title: str | None = None, below: float = 0.0
) -> "tuple[Figure, list[Axes]]":
    """A figure of panels of one size, row by row.

    Args:
        count: of the panels.
        columns: panels beside each other, at most.
        size: inches of a panel, width and height.
        title: printed above the picture.
        below: inches below the panels, for a legend.

    Raises:
        ImportError: matplotlib is not installed.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(size[0] * columns, size[1] * rows + below, title)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]


def line_colors(count: int) -> list[str]:
    """Colours of that many lines; from the seventh on they come again.

    Example:
        >>> line_colors(7)[0] == line_colors(7)[6]
        True
    """
    return [_COLORS[i % len(_COLORS)] for i in range(count)]


def finish_axes(panel: "Axes") -> None:
    """Small numbers, a light grid behind what is drawn, no frame above and on the right."""
    panel.tick_params(labelsize=7)
    panel.grid(color="0.9", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def hide_ticks(panel: "Axes") -> None:
    """A picture has no axes to read."""
    panel.set_xticks([])
    panel.set_yticks([])


def frame_picture(panel: "Axes", color: str = "#bbbbbb", width: float = 0.5) -> None:
    """A thin frame around a picture, without ticks."""
    hide_ticks(panel)
    for spine in panel.spines.values():
        spine.set(color=color, linewidth=width)


def label_row(panel: "Axes", text: str) -> None:
    """Write left of the first panel of a row."""
    panel.text(-0.1, 0.5, text, transform=panel.transAxes, ha="right", va="center", fontsize=7)


def save_figure(figure: "Figure", path: str | Path, dpi: int = 120) -> Path:
    """Write a figure as PNG: first under a temporary name, then renamed. Missing folders are created.

    Returns:
        The path written.
    """
    path = Path(path)
    with new_name(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, facecolor="white")
    return path


__all__ = [
    "finish_axes",
    "frame_picture",
    "hide_ticks",
    "label_row",
    "line_colors",
    "new_figure",
    "new_panels",
    "save_figure",
]
