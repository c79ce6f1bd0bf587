"""Which classes are taken for which: a confusion matrix as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hf_jepa.visualization.figures import new_figure, save_figure


MOST_NAMES = 40  # beyond, names and numbers cannot be read


def draw_confusion(
    counts: Sequence[Sequence[int]] | np.ndarray, path: str | Path, class_names: Sequence[str] | None = None
) -> Path:
    """Draw the shares of each true class (a row) over the predicted classes (columns).

    Names are left out above 40 classes, numbers above 20. A class without test images is an empty row.

    Args:
        counts: (C, C), entry [true class, predicted class].
        path: PNG to write.
        class_names: C names; numbers unless given.

    Returns:
        the path written.

    Raises:
        ValueError: not a square matrix of counts, or another number of names.

    Example:
        >>> import tempfile
        >>> draw_confusion([[3, 1], [0, 4]], Path(tempfile.mkdtemp()) / "confusion.png", ["cat", "dog"]).name
        'confusion.png'
    """
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size or counts.min() < 0:
        raise ValueError(f"a confusion matrix must be square and hold counts, got shape {counts.shape}")
    names = [str(i) for i in range(len(counts))] if class_names is None else [str(name) for name in class_names]
    if len(names) != len(counts):
        raise ValueError(f"{len(names)} names for {len(counts)} classes")
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = min(12.0, 2.5 + 0.4 * len(counts))
    figure = new_figure(side + 1.0, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    right = counts.trace() / max(1, counts.sum())
    axes.set_title(f"{right:.1%} of {counts.sum():,} right", loc="left")
    if len(counts) <= MOST_NAMES:
        axes.set_xticks(range(len(counts)), names, rotation=90, parse_math=False)  # a name may hold a $
        axes.set_yticks(range(len(counts)), names, parse_math=False)
    if len(counts) <= MOST_NAMES // 2:
        for row, column in zip(*counts.nonzero(), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=color, fontsize=7)
    return save_figure(figure, path)


__all__ = ["draw_confusion"]
