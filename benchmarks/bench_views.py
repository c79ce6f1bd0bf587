"""Views: how fast they are cut, and the augmentation of a batch beside Pillow's, one view after another."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from timing import Row, medians

from hf_jepa.data.augmentations import RandomColorDistortion
from hf_jepa.data.transforms import Normalize, sample_rng, to_tensor
from hf_jepa.data.view_augmentation import ViewAugmentation
from hf_jepa.data.views import EmbeddedViews, MultiCrop


BATCH_SIZE = 64
SIZE = 48
CROPS_LIMIT_MS = 0.5  # for two views of 48 pixels: 2000 samples a second


def run(quick: bool) -> Iterator[Row]:
    """Crops of the embedded photographs, then the augmentation of a batch of them and of larger views."""
    repeats = 1 if quick else 7
    crops = EmbeddedViews(BATCH_SIZE, MultiCrop(SIZE, global_scale=(0.25, 1.0)))
    (cut_ms,) = medians(lambda: [crops[i] for i in range(BATCH_SIZE)], repeats=repeats)
    yield Row(f"two views of {SIZE} pixels, per sample", "limit", cut_ms / BATCH_SIZE, None, CROPS_LIMIT_MS)
    for size, batch in ((SIZE, BATCH_SIZE), (224, 4)):
        pixels = torch.randint(0, 256, (batch, 2, 3, size, size), dtype=torch.uint8)
        pictures = [Image.fromarray(view.permute(1, 2, 0).numpy()) for view in pixels.flatten(0, 1)]
        augment, index = ViewAugmentation(), torch.arange(batch)
        ours_ms, pillow_ms = medians(
            lambda augment=augment, pixels=pixels, index=index: augment(pixels, index, 0),
            lambda pictures=pictures: [_by_pillow(picture, sample_rng(0, 0, i)) for i, picture in enumerate(pictures)],
            repeats=repeats,
        )
        yield Row(f"augmentation of {batch} x 2 views of {size} pixels", "Pillow in a loop", ours_ms, pillow_ms, None)


def _by_pillow(picture: Image.Image, rng: np.random.Generator) -> torch.Tensor:
    """Such a transform as a loader worker would run it; strengths of the jitter as good as the same."""
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    picture = RandomColorDistortion(0.5)(picture, rng)  # with its rates of jitter and grey
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
    if rng.random() < 0.2:
        picture = ImageOps.solarize(picture)
    return Normalize()(to_tensor(picture))
