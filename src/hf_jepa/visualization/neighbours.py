"""What an encoder takes to be alike: queries with their nearest neighbours."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import normalize

from hf_jepa.visualization.figures import frame_picture, new_figure, save_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RIGHT, _WRONG, _QUERY = "#3c9d6b", "#d1495b", "#1a1a1a"


def draw_neighbours(
    query_images: np.ndarray,
    gallery_images: np.ndarray,
    query_features: torch.Tensor,
    gallery_features: torch.Tensor,
    query_labels: torch.Tensor,
    gallery_labels: torch.Tensor,
    path: str | Path,
    *,
    num_neighbours: int = 8,
    class_names: tuple[str, ...] | None = None,
) -> Path:
    """Draw a row per query: the query, then the gallery images of the highest cosine similarity, nearest first.

    A neighbour of the query's own class has a green frame and a tick, another a red frame and a cross.

    Args:
        query_images: (Q, H, W) or (Q, H, W, 3), uint8, or float in [0, 1].
        gallery_images: (G, H, W) or (G, H, W, 3).
        query_features, gallery_features: (Q, D) and (G, D), prepared as for k-NN.
        query_labels, gallery_labels: (Q,) and (G,)
        path: PNG to write.
        num_neighbours: per query, at most G.
        class_names: printed instead of the labels' numbers.

    Returns:
        The path written.

    Raises:
        ValueError: numbers of images, features and labels differ, no query, or too few gallery images.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> images, features, labels = np.zeros((4, 8, 8)), torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> path = tempfile.mkdtemp() + "/neighbours.png"
        >>> draw_neighbours(images, images, features, features, labels, labels, path, num_neighbours=2).name
        'neighbours.png'
    """
    for kind, group in (
        ("query", (query_images, query_features, query_labels)),
        ("gallery", (gallery_images, gallery_features, gallery_labels)),
    ):
        if len({len(part) for part in group}) != 1 or len(group[0]) == 0:
            counts = ", ".join(str(len(part)) for part in group)
            raise ValueError(f"{kind} images, features and labels must be as many, and at least one: got {counts}")
    if not 1 <= num_neighbours <= len(gallery_images):
        raise ValueError(f"num_neighbours is {num_neighbours}, but there are {len(gallery_images)} gallery images")
    similarity = normalize(query_features.float(), dim=1) @ normalize(gallery_features.float(), dim=1).T  # (Q, G)
    nearest = similarity.topk(num_neighbours, dim=1)
    hits = gallery_labels[nearest.indices] == query_labels[:, None]  # (Q, K)
    size = 1.05
    title = f"query | {num_neighbours} nearest neighbours, {hits.float().mean():.0%} of them of the query's class"
    figure = new_figure(size * (num_neighbours + 1), (size + 0.22) * len(query_images), title)
    axes = figure.subplots(len(query_images), num_neighbours + 1, squeeze=False)
    for q, row in enumerate(axes):
        _draw_tile(row[0], query_images[q], _name(query_labels[q], class_names), _QUERY)
        for panel, index, is_hit in zip(row[1:], nearest.indices[q].tolist(), hits[q].tolist(), strict=True):
            label = f"{'✓' if is_hit else '✗'} {_name(gallery_labels[index], class_names)}"
            _draw_tile(panel, gallery_images[index], label, _RIGHT if is_hit else _WRONG)
    return save_figure(figure, path)


def _name(label: torch.Tensor, class_names: tuple[str, ...] | None) -> str:
    name = str(int(label)) if class_names is None else class_names[int(label)].replace("_", " ")
    return name if len(name) <= 14 else name[:13] + "…"


def _draw_tile(panel: "Axes", image: np.ndarray, label: str, color: str) -> None:
    panel.imshow(image, cmap="gray", vmin=0, vmax=255 if np.asarray(image).dtype == np.uint8 else 1)
    panel.set_title(label, fontsize=6.5, color=color, pad=2, parse_math=False)  # a name may hold a $
    frame_picture(panel, color, width=2)


__all__ = ["draw_neighbours"]
