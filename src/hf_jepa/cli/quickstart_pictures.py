"""The four pictures of `hf-jepa quickstart`."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from hf_jepa.cli.quickstart_recipe import Crops, encode, features, mask_sampler
from hf_jepa.data.embedded import PICTURES, STD_FLOOR, EmbeddedCrops, pictures
from hf_jepa.visualization.curves import draw_training_curves
from hf_jepa.visualization.masks import draw_masks
from hf_jepa.visualization.neighbours import draw_neighbours
from hf_jepa.visualization.pca import draw_pca_maps


CROP, GRID = 48, 6
STRIDE = 2  # tokens between neighbouring crops of a map
CURVES = {
    "loss (prediction of the targets)": ["loss"],
    "RankMe: directions in which images differ": ["rankme"],
    "std of targets over images": ["target_std"],
    "cosine with the target": ["context_target_cosine", "prediction_target_cosine"],
    "momentum": ["momentum"],
    "learning rate": ["learning_rate"],
}
MAPPED = ("astronaut", "cat", "coffee", "rocket", "coins", "stereo_motorcycle")
MAP_SIZE = (288, 384)  # pixels shown of each, multiples of the crop


def draw_all(encoder: nn.Module, crops: Crops, log_history: list[dict], seed: int, folder: Path) -> None:
    """Draw masks.png, training.png, pca.png and neighbours.png.

    Args:
        encoder: the pretrained target encoder.
        crops: labelled crops.
        log_history: of its training.
        seed: of its training.
        folder: where to write.
    """
    samples = EmbeddedCrops(64, seed=seed).__getitems__([0, 1, 2, 3])
    shown = displayed(torch.stack([sample["pixel_values"] for sample in samples]))
    masks = mask_sampler(seed)(torch.arange(4), step=0)
    rgb = np.repeat(shown[..., None], 3, axis=-1)
    draw_masks(rgb, masks, (GRID, GRID), folder / "masks.png", title="what is seen and what is predicted at step 0")
    draw_training_curves(log_history, CURVES, folder / "training.png", title=f"pretraining, seed {seed}")
    regions = [region(pictures()[PICTURES.index(name)]) for name in MAPPED]
    maps, grids = zip(*(token_map(encoder, pixels) for pixels in regions), strict=True)
    draw_pca_maps(np.stack(regions), torch.stack(maps), grids[0], folder / "pca.png", columns=2)
    _draw_neighbours(encoder, crops, folder / "neighbours.png")


def _draw_neighbours(encoder: nn.Module, crops: Crops, path: Path) -> None:
    gallery, test = features(encoder, crops)
    per_picture = len(crops.test) // len(PICTURES)
    queries = torch.arange(0, len(crops.test), 2 * per_picture)  # the first crop of every second picture
    draw_neighbours(
        displayed(crops.test[queries]),
        displayed(crops.gallery),
        test[queries],
        gallery,
        crops.test_labels[queries],
        crops.gallery_labels,
        path,
        class_names=PICTURES,
    )


def displayed(crops: torch.Tensor) -> np.ndarray:
    """Standardised crops (B, 3, H, W) as grey images (B, H, W) in [0, 1]."""
    low, high = crops.amin(dim=(1, 2, 3), keepdim=True), crops.amax(dim=(1, 2, 3), keepdim=True)
    return ((crops - low) / (high - low).clamp(min=1e-6))[:, 0].numpy()


def region(picture: Image.Image) -> np.ndarray:
    """The centre of a picture, (288, 384) in [0, 1], scaled to fill it."""
    return np.asarray(ImageOps.fit(picture, MAP_SIZE[::-1]), np.float32) / 255


def token_map(encoder: nn.Module, pixels: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
    """Tokens of a picture larger than a crop: each is its mean over the overlapping crops that contain it.

    Args:
        encoder: of crops of 48 pixels.
        pixels: (H, W) in [0, 1], multiples of 48.

    Returns:
        tokens (N, D), row-major, and the grid they make.
    """
    patch = CROP // GRID
    crops = torch.from_numpy(pixels).unfold(0, CROP, STRIDE * patch).unfold(1, CROP, STRIDE * patch)  # (r, c, 48, 48)
    std, mean = torch.std_mean(crops, dim=(2, 3), keepdim=True, correction=0)
    images = ((crops - mean) / (std + STD_FLOOR)).flatten(0, 1).unsqueeze(1).expand(-1, 3, -1, -1)
    tokens = encode(encoder, images).unflatten(1, (GRID, GRID)).unflatten(0, crops.shape[:2])  # (r, c, 6, 6, D)
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    total, count = torch.zeros(rows, columns, tokens.shape[-1]), torch.zeros(rows, columns, 1)
    for i in range(GRID):
        for j in range(GRID):
            here = slice(i, rows - GRID + i + 1, STRIDE), slice(j, columns - GRID + j + 1, STRIDE)
            total[here] += tokens[:, :, i, j]
            count[here] += 1
    return (total / count).flatten(0, 1), (rows, columns)


__all__ = ["displayed", "draw_all", "region", "token_map"]
