"""The picture of a diagnosis: the signals that tell one cause of trouble from another, of one run or of several."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_jepa.visualization.figures import finish_axes, new_panels, save_figure


# Signal -> (title, threshold, what lies below it) as `hf_jepa.training.diagnosis.rules` has them.
PANELS: dict[str, tuple[str, float | None, str]] = {
    "loss": ("loss", None, ""),
    "image_share": ("image_share: what targets say of the image", None, ""),
    "rankme": ("rankme: directions in which images differ", None, ""),
    "prediction_image_cosine": ("prediction_image_cosine", 0.05, "nothing of the image"),
    "context_target_cosine": ("context_target_cosine", 0.97, "above: one encoder"),
    "context_change": ("context_change: encoder since the start", 0.16, "stays behind"),
    "target_change": ("target_change: targets since the start", None, ""),
    "gradient_agreement": ("gradient_agreement", 0.45, "noise, early in a run"),
    "visible_targets": ("visible_targets", 0.02, "above: leak"),
}
_COLUMNS = 3
_SIZE = (3.5, 2.5)  # inches of a panel


def draw_diagnosis(
    logs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, title: str | None = None
) -> Path:
    """Draw the signals of runs over their steps, with the thresholds of the rules as dotted lines.

    Args:
        logs: name of a run -> entries of its log, each with "step". The first one is drawn in black.
        path: PNG to write.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: no entry holds any of the signals.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> log = [{"step": s, "loss": 1 / s, "rankme": 2.0 * s} for s in (1, 2, 3)]
        >>> draw_diagnosis({"run": log}, tempfile.mkdtemp() + "/diagnosis.png").name
        'diagnosis.png'
    """
    found = [name for name in PANELS if any(name in entry for log in logs.values() for entry in log)]
    if not found:
        raise ValueError(f"no log has any of the signals {', '.join(PANELS)}")
    from matplotlib import colormaps

    figure, axes = new_panels(len(found), _COLUMNS, _SIZE, title, below=0.3)
    colors = ["black", *colormaps["tab10"].colors]
    lines = []
    for panel, signal in zip(axes, found, strict=True):
        heading, threshold, meaning = PANELS[signal]
        lines = []
        for number, log in enumerate(logs.values()):
            points = [(entry["step"], entry[signal]) for entry in log if signal in entry]
            steps, values = zip(*points, strict=True) if points else ((), ())
            width = 2.2 if number == 0 else 1.2
            lines += panel.plot(
                steps, values, color=colors[number % len(colors)], linewidth=width, zorder=4 if number == 0 else 3
            )
        if threshold is not None:
            panel.axhline(threshold, color="0.4", linestyle=":", linewidth=1.0)
            label = panel.text(0.99, threshold, meaning, transform=panel.get_yaxis_transform(), fontsize=6.5)
            label.set(ha="right", va="bottom", color="0.2", zorder=5)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})
        panel.set_title(heading, fontsize=8.5)
        finish_axes(panel)
    for panel in axes[-_COLUMNS:]:
        panel.set_xlabel("step", fontsize=8)
    if len(logs) > 1:
        figure.legend(
            lines, list(logs), loc="outside lower center", ncols=min(len(logs), 5), fontsize=8, frameon=False
        )
    return save_figure(figure, path)


__all__ = ["PANELS", "draw_diagnosis"]
