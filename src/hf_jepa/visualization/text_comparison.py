"""The picture of a comparison of language-model objectives: what they reach at which cost of training."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from hf_jepa.visualization.figures import finish_axes, line_colors, new_panels, save_figure


def draw_text_comparison(
    rows: Mapping[str, Sequence[Mapping[str, float]]],
    panels: Mapping[str, str],
    path: str | Path,
    title: str | None = None,
) -> Path:
    """Draw figures over the cost of training: a dot for every run, a line through the means of equal steps.

    Args:
        rows: title of an objective -> its runs, each a mapping with "steps", "gflops" and the figures to draw.
        panels: name of a figure -> what stands above its panel.
        path: PNG to write.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: nothing to draw, or an objective without a run.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> runs = [{"steps": 100, "gflops": 200.0, "exact": 0.1}, {"steps": 200, "gflops": 400.0, "exact": 0.5}]
        >>> path = tempfile.mkdtemp() + "/comparison.png"
        >>> draw_text_comparison({"LLM-JEPA": runs}, {"exact": "exact match"}, path).name
        'comparison.png'
    """
    if not rows or not panels:
        raise ValueError("there is nothing to draw: give at least one objective and one figure")
    if empty := [name for name, runs in rows.items() if not runs]:
        raise ValueError(f"{empty[0]!r} has no run")
    figure, axes = new_panels(len(panels), len(panels), (3.6, 3.6), title)
    for panel, (name, heading) in zip(axes, panels.items(), strict=True):
        for color, (label, runs) in zip(line_colors(len(rows)), rows.items(), strict=True):
            cost = [run["gflops"] / 1000 for run in runs]
            style = {"markersize": 4, "alpha": 0.45, "markeredgewidth": 0}
            panel.plot(cost, [run[name] for run in runs], "o", color=color, **style)
            panel.plot(*_means(runs, name), "-_", color=color, markersize=9, linewidth=1.3, label=label)
        panel.set_title(heading, fontsize=9)
        panel.set_xlabel("training, TFLOP", fontsize=8)
        finish_axes(panel)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return save_figure(figure, path)


def _means(runs: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Mean cost and figure of the runs of equal steps, in the order of their steps."""
    groups = defaultdict(list)
    for run in runs:
        groups[run["steps"]].append(run)
    ordered = [groups[steps] for steps in sorted(groups)]
    return [fmean(run["gflops"] for run in group) / 1000 for group in ordered], [
        fmean(run[name] for run in group) for group in ordered
    ]


__all__ = ["draw_text_comparison"]
