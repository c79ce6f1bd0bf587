"""Pictures of planning: what actions cost over a grid, and how a search narrows down."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_jepa.visualization.figures import finish_axes, line_colors, new_panels, save_figure


if TYPE_CHECKING:
    from hf_jepa.planning.landscape import EnergyLandscape
    from hf_jepa.planning.planner import Plan

_MARKS = ("o", "X", "s", "D")
_LOWEST = "#ffffff"


def draw_energy_landscape(
    landscape: "EnergyLandscape",
    path: str | Path,
    *,
    marks: Mapping[str, Sequence[Sequence[float]]] | None = None,
    names: Sequence[str] | None = None,
    columns: int = 4,
    title: str | None = None,
) -> Path:
    """Draw what first actions cost, a panel for every environment, with the lowest point as a white cross.

    Args:
        landscape: from `energy_landscape`.
        path: PNG to write.
        marks: name -> (B, 2) points along the two axes, such as the actions that were really done.
        names: of the two axes, by default their numbers.
        columns: panels beside each other, at most.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: marks that are not one for each environment, energies that are not finite.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile, torch
        >>> from hf_jepa.planning import energy_landscape
        >>> landscape = energy_landscape(
        ...     lambda actions: actions.square().sum(dim=(2, 3)), torch.zeros(1, 1, 2), axes=(0, 1), extent=1.0
        ... )
        >>> draw_energy_landscape(landscape, tempfile.mkdtemp() + "/landscape.png").name
        'landscape.png'
    """
    energies, values = landscape.energies.numpy(), landscape.values.numpy()
    if not np.isfinite(energies).all():
        raise ValueError("energies are not finite: there is nothing to draw")
    points = {name: np.asarray(place, dtype=np.float64) for name, place in (marks or {}).items()}
    for name, place in points.items():
        if place.shape != (len(energies), 2):
            raise ValueError(f"marks {name!r} of shape {place.shape}: want ({len(energies)}, 2)")
    names = [f"action {axis}" for axis in landscape.axes] if names is None else list(names)
    figure, panels = new_panels(len(energies), columns, (3.3, 2.9), title, below=0.3 if points else 0)
    colors = line_colors(len(points) + 1)[1:]
    lowest = landscape.lowest().numpy()
    for index, (panel, energy) in enumerate(zip(panels, energies, strict=True)):
        drawn = panel.pcolormesh(*values[index], energy.T, cmap="viridis", shading="nearest")
        figure.colorbar(drawn, ax=panel).ax.tick_params(labelsize=7)
        panel.plot(*lowest[index], marker="x", markersize=9, markeredgewidth=2, color=_LOWEST, linestyle="")
        for (name, place), color, mark in zip(points.items(), colors, cycle(_MARKS), strict=False):
            style = {"color": color, "marker": mark, "markeredgecolor": "white", "linestyle": "", "clip_on": False}
            panel.plot(*place[index], label=name, markersize=8, **style)
        panel.set_xlabel(names[0], fontsize=8)
        panel.set_ylabel(names[1], fontsize=8)
        panel.tick_params(labelsize=7)
    if points:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=4)
    return save_figure(figure, path)


def draw_searches(
    plans: "Mapping[str, Plan]", path: str | Path, *, environment: int = 0, title: str | None = None
) -> Path:
    """Draw how searches went: costs of the best candidate and of the elites, and how far the elites differ.

    Args:
        plans: name of a planner -> its plan. Searches of one iteration are drawn as a point.
        path: PNG to write.
        environment: whose search it is.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: no plan.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile, torch
        >>> from hf_jepa.planning import ActionSpace, CEMPlanner
        >>> plan = CEMPlanner(ActionSpace(2), horizon=2).plan(
        ...     lambda actions: actions.square().sum(dim=(2, 3)), 1, generator=torch.Generator().manual_seed(0)
        ... )
        >>> draw_searches({"CEM": plan}, tempfile.mkdtemp() + "/search.png").name
        'search.png'
    """
    if not plans:
        raise ValueError("there is no plan to draw")
    figure, (left, right) = new_panels(2, 2, (4.2, 3.0), title)
    for (name, plan), color in zip(plans.items(), line_colors(len(plans)), strict=True):
        history = plan.history[: int(plan.iterations[environment])]
        steps = np.arange(len(history))
        best, mean, spread = (
            np.array([float(getattr(entry, field)[environment]) for entry in history])
            for field in ("best_cost", "elite_cost_mean", "elite_spread")
        )
        marker = "." if len(history) < 30 else None
        left.plot(steps, best, color=color, linewidth=1.4, marker=marker, label=name)
        left.plot(steps, mean, color=color, linewidth=1.0, linestyle="--")
        right.plot(steps, spread, color=color, linewidth=1.4, marker=marker, label=name)
    left.set_title("cost: best so far (line), mean of elites (dashed)", fontsize=9)
    right.set_title("largest deviation of the elites' actions", fontsize=9)
    for panel in (left, right):
        panel.set_xlabel("iteration", fontsize=8)
        finish_axes(panel)
    left.legend(fontsize=7, frameon=False)
    return save_figure(figure, path)


__all__ = ["draw_energy_landscape", "draw_searches"]
