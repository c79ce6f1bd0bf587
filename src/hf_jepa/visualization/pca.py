"""What tokens have in common, in colour: their first three principal components as red, green and blue."""

from pathlib import Path

import numpy as np
import torch

from hf_jepa.visualization.figures import new_figure, save_figure


_CLIP = 0.02  # share of the tokens at either end of a component that saturate


def pca_colors(token_features: torch.Tensor) -> np.ndarray:
    """The first three principal components of all tokens, scaled to [0, 1].

    The components are fitted on the tokens of all images together, so one colour means one thing everywhere. The sign
    of a component, which is arbitrary, is chosen so that its largest entry is positive: the same features always give
    the same colours.

    Args:
        token_features: (B, N, D), B * N >= 4 and D >= 3.

    Returns:
        float64 array (B, N, 3)

    Raises:
        ValueError: another shape, too few tokens or dimensions, NaN or infinite values.

    Example:
        >>> pca_colors(torch.randn(2, 9, 8)).shape
        (2, 9, 3)
    """
    if (
        token_features.ndim != 3
        or token_features.shape[0] * token_features.shape[1] < 4
        or token_features.shape[2] < 3
    ):
        raise ValueError(
            f"token_features has shape {tuple(token_features.shape)}: expected (images, tokens, dimensions) with "
            "at least 4 tokens and 3 dimensions"
        )
    flat = token_features.detach().cpu().double().flatten(0, 1)  # (B * N, D)
    if not flat.isfinite().all():
        raise ValueError("token_features holds NaN or infinite values: look for an overflow or a diverged model")
    flat = flat - flat.mean(dim=0)
    directions = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -3:].flip(1)  # (D, 3), largest variance first
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    components = flat @ (directions * largest.sign())  # (B * N, 3)
    low, high = components.quantile(torch.tensor([_CLIP, 1 - _CLIP], dtype=torch.float64), dim=0)
    scaled = (components - low) / (high - low).clamp(min=1e-12)
    return scaled.clamp(0, 1).unflatten(0, token_features.shape[:2]).numpy()


def draw_pca_maps(
    images: np.ndarray, token_features: torch.Tensor, grid_size: tuple[int, int], path: str | Path, *, columns: int = 4
) -> Path:
    """Draw each image beside the map of its tokens, coloured by their first three principal components.

    Args:
        images: (B, H, W) or (B, H, W, 3), uint8, or float in [0, 1].
        token_features: (B, N, D), N = rows * columns of `grid_size`, row-major.
        grid_size: (rows, columns) of the token grid.
        path: PNG to write.
        columns: pairs of image and map beside one another.

    Returns:
        The path written.

    Raises:
        ValueError: images, tokens and grid do not fit one another; see also `pca_colors`.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> images, tokens = np.zeros((2, 48, 48)), torch.randn(2, 36, 8)
        >>> draw_pca_maps(images, tokens, (6, 6), tempfile.mkdtemp() + "/pca.png").name
        'pca.png'
    """
    images = np.asarray(images)
    if len(images) != len(token_features) or token_features.shape[1] != grid_size[0] * grid_size[1]:
        raise ValueError(
            f"{len(images)} images, token features {tuple(token_features.shape)} and a grid of {grid_size[0]} x "
            f"{grid_size[1]} tokens do not fit one another"
        )
    colors = pca_colors(token_features).reshape(len(images), *grid_size, 3)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width = 1.6
    title = "image | first three principal components of its tokens"
    figure = new_figure(2 * width * columns, rows * width * images.shape[1] / images.shape[2] + 0.1, title)
    axes = figure.subplots(rows, 2 * columns, squeeze=False)
    for panel in axes.ravel():
        panel.set_axis_off()
    for i, (image, color) in enumerate(zip(images, colors, strict=True)):
        left, right = axes[i // columns, 2 * (i % columns) : 2 * (i % columns) + 2]
        left.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
        right.imshow(color, interpolation="nearest")
        right.set_aspect(image.shape[0] / image.shape[1] * grid_size[1] / grid_size[0])
    return save_figure(figure, path)


__all__ = ["draw_pca_maps", "pca_colors"]
