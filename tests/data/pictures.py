"""Pictures made for the tests of this folder."""

import numpy as np
from PIL import Image


# The files of the fixture `folder` that cannot be read.
CORRUPT = {"truncated.jpg", "empty.jpg", "text.jpg"}


def picture(seed: int, height: int = 40, width: int = 60) -> Image.Image:
    """Smooth colours with some noise, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)
