"""Several views of every image: random crops of one or two sizes, cut where images are read.

What is done to pixels afterwards is done to whole batches on the device (`hf_jepa.data.view_augmentation`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_jepa.data.decoding import UndecodableImage
from hf_jepa.data.embedded import pictures
from hf_jepa.data.images import ImageCollator
from hf_jepa.data.row_stream import PendingSample, loaded
from hf_jepa.data.shared_epoch import EndlessDataset
from hf_jepa.data.transforms import RandomResizedCrop


class Views(tuple):
    """The views of one sample: a tuple of tensors (V, C, H, W), one per size, global views first.

    Example:
        >>> Views([torch.zeros(2, 3, 48, 48), torch.zeros(6, 3, 24, 24)]).shape
        ((2, 3, 48, 48), (6, 3, 24, 24))
    """

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        """Shape of every group; so a sample that could not be read knows the views that it would have had."""
        return tuple(tuple(group.shape) for group in self)


class MultiCrop:
    """Random crops of an image, the transform of data sets of views.

    Global views show much of the image, local ones little of it at a smaller size (multi-crop, 2006.09882). Every view
    has random numbers of its own: how many there are changes none of the others.

    Args:
        global_size: of global views in pixels, an int or (height, width).
        num_global: global views.
        global_scale: smallest and largest area of a global view as a fraction of the image.
        local_size, num_local, local_scale: the same of local views; no size is needed without them.

    Raises:
        ValueError: fewer than two views, no global view, or local views without a size.

    Example:
        >>> from PIL import Image
        >>> from hf_jepa.data.transforms import sample_rng
        >>> crop = MultiCrop(48, num_local=6, local_size=24)
        >>> crop(Image.new("RGB", (300, 200)), sample_rng(0, 0, 0)).shape
        ((2, 3, 48, 48), (6, 3, 24, 24))
    """

    def __init__(
        self,
        global_size: int | Sequence[int],
        num_global: int = 2,
        global_scale: tuple[float, float] = (0.3, 1.0),
        local_size: int | Sequence[int] | None = None,
        num_local: int = 0,
        local_scale: tuple[float, float] = (0.05, 0.3),
    ):
        if num_global < 1 or num_local < 0 or num_global + num_local < 2:
            raise ValueError(
                f"an image needs at least two views, one of them global, got num_global={num_global} and "
                f"num_local={num_local}"
            )
        self.groups = [(RandomResizedCrop(global_size, global_scale), num_global)]
        if num_local:
            if local_size is None:
                raise ValueError(f"num_local={num_local} views have no size: give local_size")
            self.groups.append((RandomResizedCrop(local_size, local_scale), num_local))

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Views:
        """The views of an RGB or grey image as uint8 tensors: a quarter of the bytes of floats on their way."""
        generators = iter(rng.spawn(sum(count for _, count in self.groups)))
        crops = [[crop(image, next(generators)).convert("RGB") for _ in range(count)] for crop, count in self.groups]
        return Views(torch.from_numpy(np.stack(group)).permute(0, 3, 1, 2).contiguous() for group in crops)


class ViewCollator:
    """Stack samples of views to a batch, leaving out the images that could not be decoded.

    The batch has `pixel_values`, a list of one tensor (B, V, C, H, W) per size of views, or that tensor where there is
    one size, and what `ImageCollator` gives: `sample_index` (B,), `labels` (B,) if there are any, `skipped`.

    Example:
        >>> sample = {"pixel_values": Views([torch.zeros(2, 3, 8, 8)]), "sample_index": 5}
        >>> bad = UndecodableImage(6, "b.jpg", "the file is empty", ((2, 3, 8, 8),))
        >>> batch = ViewCollator()([sample, bad])
        >>> batch["pixel_values"].shape, batch["skipped"]
        (torch.Size([1, 2, 3, 8, 8]), ['b.jpg: the file is empty'])
    """

    def __init__(self):
        self.collator = ImageCollator()

    def __call__(self, samples: Sequence[dict[str, Any] | UndecodableImage | PendingSample]) -> dict[str, Any]:
        samples = loaded(samples)
        batches = [self.collator([_group(sample, g) for sample in samples]) for g in range(_num_groups(samples[0]))]
        groups = [batch["pixel_values"] for batch in batches]
        return batches[0] | {"pixel_values": groups if len(groups) > 1 else groups[0]}


def _num_groups(sample: dict[str, Any] | UndecodableImage) -> int:
    return len(sample.shape if isinstance(sample, UndecodableImage) else sample["pixel_values"])


def _group(sample: dict[str, Any] | UndecodableImage, number: int) -> dict[str, Any] | UndecodableImage:
    if isinstance(sample, UndecodableImage):
        return replace(sample, shape=sample.shape[number])
    return sample | {"pixel_values": sample["pixel_values"][number]}


@lru_cache(maxsize=1)
def _left_halves() -> tuple[Image.Image, ...]:
    return tuple(picture.crop((0, 0, picture.width // 2, picture.height)) for picture in pictures())


class EmbeddedViews(EndlessDataset):
    """Views of the bundled photographs: a random window of a left half, and crops of it.

    Sample `index` of an epoch is a pure function of (seed, epoch, index). Windows are twice as wide as the crops by
    which features are judged (`labelled_crops`, 48 pixels), so views of a quarter of the window up to all of it show
    the detail that those do. Views are grey and not standardised yet: `ViewAugmentation(mean=None, std=None)` does it.

    Args:
        length: samples per epoch.
        transform: `MultiCrop`, or another transform of a PIL image to `Views`.
        window: side of the window in pixels.
        seed: of windows and crops.

    Raises:
        ValueError: no sample, or a window that is larger than the smallest half.

    Example:
        >>> views = EmbeddedViews(100, MultiCrop(48, global_scale=(0.25, 1.0)))
        >>> views[7]["pixel_values"].shape, views[7]["sample_index"]
        (((2, 3, 48, 48),), 7)
    """

    def __init__(self, length: int, transform: MultiCrop, window: int = 96, seed: int = 0):
        super().__init__(length, seed)
        if not 1 <= window <= (smallest := min(min(half.size) for half in _left_halves())):
            raise ValueError(f"window={window} pixels do not fit into the smallest half, of {smallest} pixels")
        self.transform, self.window = transform, window

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        views = [self._views(rng) for rng in self.rngs(indices)]
        return [{"pixel_values": each, "sample_index": int(i)} for each, i in zip(views, indices, strict=True)]

    def _views(self, rng: np.random.Generator) -> Views:
        half = _left_halves()[rng.integers(len(_left_halves()))]
        left, top = (int(rng.integers(side - self.window + 1)) for side in half.size)
        window = half.crop((left, top, left + self.window, top + self.window))
        return self.transform(window, rng)


__all__ = ["EmbeddedViews", "MultiCrop", "ViewCollator", "Views"]
