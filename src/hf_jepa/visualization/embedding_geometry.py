"""The picture of embedding geometry: cosines of true and shuffled pairs, and the spectra of views and difference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_jepa.visualization.figures import finish_axes, new_figure, save_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hf_jepa.evaluation.embedding_geometry import EmbeddingGeometry

_BINS = 50
_TRUE, _SHUFFLED = "#2e86ab", "#e0912f"
_SPECTRA = {
    "text": ("Enc(Text)", "#2e86ab"),
    "code": ("Enc(Code)", "#3c9d6b"),
    "difference": ("Enc(Text) - Enc(Code)", "#c1443c"),
}
_FLOOR = 1e-7  # of the largest singular value: what is below is rounding of float32


def draw_embedding_geometry(
    geometries: "Mapping[str, EmbeddingGeometry]", path: str | Path, title: str | None = None
) -> Path:
    """Draw one row per model: a histogram of cosines, and singular values on a logarithmic scale.

    All rows have the same axes, so that models can be compared.

    Args:
        geometries: title of a row -> from `embedding_geometry`. The first row is drawn at the top.
        path: PNG to write.
        title: printed above the picture.

    Returns:
        The path written.

    Raises:
        ValueError: nothing to draw.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile, torch
        >>> from hf_jepa.evaluation.embedding_geometry import embedding_geometry
        >>> text = torch.randn(50, 8)
        >>> found = embedding_geometry(text, text + 0.1 * torch.randn(50, 8))
        >>> draw_embedding_geometry({"tiny": found}, tempfile.mkdtemp() + "/geometry.png").name
        'geometry.png'
    """
    if not geometries:
        raise ValueError("there is no embedding geometry to draw")
    figure = new_figure(9.6, 2.9 * len(geometries), title)
    panels = figure.subplots(len(geometries), 2, squeeze=False, sharex="col", sharey="col")
    cosines = [row for found in geometries.values() for row in (found.true_cosines, found.shuffled_cosines)]
    low, high = min(row.min().item() for row in cosines), max(row.max().item() for row in cosines)
    edges = np.linspace(low, max(high, low + 1e-3), _BINS + 1)
    for (left, right), (name, found) in zip(panels, geometries.items(), strict=True):
        _draw_cosines(left, found, edges)
        _draw_spectra(right, found)
        left.set_title(f"{name}: AUC {found.auc:.3f}, own Code nearest {100 * found.recall_at_1:.1f} %", fontsize=9)
        right.set_title(f"{name}: residual of a linear map {found.linear_residual:.3g}", fontsize=9)
    panels[-1][0].set_xlabel("cosine of Enc(Text) and Enc(Code)", fontsize=8)
    panels[-1][1].set_xlabel("rank of the singular value", fontsize=8)
    return save_figure(figure, path)


def _draw_cosines(panel: "Axes", found: "EmbeddingGeometry", edges: Sequence[float]) -> None:
    for values, color, label in (
        (found.shuffled_cosines, _SHUFFLED, "shuffled pairs"),
        (found.true_cosines, _TRUE, "true pairs"),
    ):
        heights = np.histogram(values.cpu().numpy(), edges)[0] / len(values)
        panel.stairs(heights, edges, fill=True, color=color, alpha=0.45)
        panel.stairs(heights, edges, color=color, linewidth=1.2, label=label)
        panel.axvline(values.mean().item(), color=color, linewidth=1, linestyle="--")
    panel.set_ylabel("share of pairs", fontsize=8)
    _finish(panel)


def _draw_spectra(panel: "Axes", found: "EmbeddingGeometry") -> None:
    for name, (label, color) in _SPECTRA.items():
        values = found.spectra[name].cpu().numpy()
        kept = values > _FLOOR * max(spectrum[0].item() for spectrum in found.spectra.values())
        style = {"color": color, "linewidth": 1.2, "marker": ".", "markersize": 3}  # one value alone is no line
        label = f"{label}, RankMe {found.ranks[name]:.1f}"
        panel.plot(1 + np.flatnonzero(kept), values[kept], label=label, **style)
    panel.set_yscale("log")
    panel.set_ylabel("singular value", fontsize=8)
    _finish(panel)


def _finish(panel: "Axes") -> None:
    panel.legend(fontsize=7, frameon=False, loc="best")
    panel.tick_params(labelbottom=True)  # which shared axes leave to the lowest row
    finish_axes(panel)


__all__ = ["draw_embedding_geometry"]
