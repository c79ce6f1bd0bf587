"""What a picture shows, told by its pixels."""

from pathlib import Path

import numpy as np
from PIL import Image


def pixels_near(path: Path, color: tuple[int, int, int], tolerance: int = 40) -> int:
    """How many pixels of a picture have nearly this colour."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - color).max(axis=-1) < tolerance).sum())
