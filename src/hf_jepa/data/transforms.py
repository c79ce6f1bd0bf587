"""Image transforms on PIL images, without torchvision.

Every transform is called as `transform(image, rng)`. All randomness comes from the `numpy.random.Generator` passed in,
which the data set makes from (seed, epoch, sample index): the same crop whatever the workers, ranks or resumes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_jepa.data.augmentations import RandomColorDistortion, RandomGaussianBlur, RandomHorizontalFlip


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def sample_rng(seed: int, epoch: int, sample_index: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch.

    Args:
        seed, epoch, sample_index: non-negative integers.

    Returns:
        a fresh generator, always the same for the same three numbers.

    Example:
        >>> sample_rng(0, 3, 7).random() == sample_rng(0, 3, 7).random() != sample_rng(0, 4, 7).random()
        True
    """
    return np.random.default_rng((seed, epoch, sample_index))


def height_width(size: int | Sequence[int]) -> tuple[int, int]:
    """A size in pixels, given as one integer or (height, width), as (height, width).

    Raises:
        ValueError: anything but positive integers.

    Example:
        >>> height_width(224), height_width((64, 128))
        ((224, 224), (64, 128))
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in sides):
        raise ValueError(f"size must be a positive integer or (height, width), got {size!r}")
    return sides


class Compose:
    """Apply transforms in order.

    Args:
        steps: callables `(image, rng) -> image`; the last usually gives a tensor.

    Example:
        >>> from PIL import Image
        >>> transform = Compose([ResizeCenterCrop(8), to_tensor])
        >>> transform(Image.new("RGB", (30, 20))).shape
        torch.Size([3, 8, 8])
    """

    def __init__(self, steps: Sequence[Callable]):
        self.steps = tuple(steps)

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> Any:
        for step in self.steps:
            image = step(image, rng)
        return image


class RandomResizedCrop:
    """Cut a random part of the image and resize it (bilinear with antialiasing), as in Inception-style training.

    The area fraction is uniform in `scale`, the logarithm of width / height uniform in `log(ratio)`; if ten draws do
    not fit into the image, the largest centred crop of an allowed shape is taken. Defaults are those of I-JEPA
    (2301.08243, appendix A; the official configs).

    Args:
        size: of the result in pixels, an int or (height, width).
        scale: smallest and largest area of the crop as a fraction of the image.
        ratio: smallest and largest width / height of the crop; it does not follow from `size`.

    Raises:
        ValueError: a range that is empty or not positive, a scale above 1.

    Example:
        >>> from PIL import Image
        >>> crop = RandomResizedCrop((32, 64))
        >>> crop(Image.new("RGB", (300, 200)), sample_rng(0, 0, 0)).size
        (64, 32)
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: tuple[float, float] = (0.3, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ):
        self.size = height_width(size)
        self.scale, self.ratio = tuple(scale), tuple(ratio)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high <= 1, got {scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must satisfy 0 < low <= high, got {ratio}")

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """The crop for an image of the given size: left, top, width, height in pixels."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
        return (width - w) // 2, (height - h) // 2, w, h

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        left, top, w, h = self.box(*image.size, rng)
        # First crop, then resize: resize(box=...) would let the filter see pixels outside the crop.
        crop = image.crop((left, top, left + w, top + h))
        return crop.resize(self.size[::-1], Image.Resampling.BILINEAR)


class ResizeCenterCrop:
    """Resize the short side (bilinear with antialiasing), then cut out the centre: the evaluation transform.

    The same function as `IJepaImageProcessor`; where torchvision is installed, which the processor then uses, pixels
    may differ by one step of 8 bits.

    Args:
        size: of the result in pixels, an int or (height, width).
        crop_pct: longer side of the crop over short side of the resized image; 0.875 resizes to 256 for 224.

    Raises:
        ValueError: crop_pct outside (0, 1].

    Example:
        >>> from PIL import Image
        >>> ResizeCenterCrop((32, 64))(Image.new("RGB", (300, 200))).size
        (64, 32)
    """

    def __init__(self, size: int | Sequence[int], crop_pct: float = 0.875):
        if not 0 < crop_pct <= 1:
            raise ValueError(f"crop_pct must be in (0, 1], got {crop_pct}")
        self.size = height_width(size)
        self.short_side = int(max(self.size) / crop_pct)

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> Image.Image:
        width, height = image.size
        short, long = min(width, height), max(width, height)
        long = int(self.short_side * long / short)  # in this order, as the processor rounds
        resized = (self.short_side, long) if width <= height else (long, self.short_side)
        image = image.resize(resized, Image.Resampling.BILINEAR)
        left, top = (resized[0] - self.size[1]) // 2, (resized[1] - self.size[0]) // 2
        return image.crop((left, top, left + self.size[1], top + self.size[0]))


def to_tensor(image: Image.Image, rng: np.random.Generator | None = None) -> torch.Tensor:
    """RGB image to a float32 tensor (3, H, W) in [0, 1].

    Example:
        >>> from PIL import Image
        >>> to_tensor(Image.new("RGB", (3, 2), "white")).max()
        tensor(1.)
    """
    pixels = torch.from_numpy(np.array(image))  # (H, W, 3)
    return pixels.permute(2, 0, 1).contiguous().float().div_(255)


class Normalize:
    """Subtract the mean and divide by the standard deviation per channel; ImageNet's unless given.

    Example:
        >>> import torch
        >>> round(Normalize()(torch.zeros(3, 1, 1))[0].item(), 4)
        -2.1179
    """

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)

    def __call__(self, pixels: torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
        return (pixels - self.mean) / self.std


def pretraining_transform(
    size: int | Sequence[int],
    scale: tuple[float, float] = (0.3, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    horizontal_flip: bool = False,
    color_distortion: float = 0.0,
    gaussian_blur: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Compose:
    """The transform of I-JEPA pretraining: a random crop and nothing else, unless switched on.

    Args:
        size, scale, ratio: see `RandomResizedCrop`.
        horizontal_flip: mirror every second image.
        color_distortion: strength of `RandomColorDistortion`, 0 for none.
        gaussian_blur: blur every second image.
        mean, std: of the normalisation, per channel.

    Returns:
        a transform from a PIL image to normalised pixels (3, H, W).

    Example:
        >>> from PIL import Image
        >>> transform = pretraining_transform(32, horizontal_flip=True)
        >>> transform(Image.new("RGB", (50, 40)), sample_rng(0, 0, 0)).shape
        torch.Size([3, 32, 32])
    """
    steps = [RandomResizedCrop(size, scale, ratio)]
    steps += [RandomHorizontalFlip()] if horizontal_flip else []
    steps += [RandomColorDistortion(color_distortion)] if color_distortion else []
    steps += [RandomGaussianBlur()] if gaussian_blur else []
    return Compose([*steps, to_tensor, Normalize(mean, std)])


def evaluation_transform(size: int | Sequence[int], crop_pct: float = 0.875) -> Compose:
    """The deterministic transform of evaluation: see `ResizeCenterCrop`.

    Returns:
        a transform from a PIL image to normalised pixels (3, H, W).

    Example:
        >>> from PIL import Image
        >>> evaluation_transform(32)(Image.new("RGB", (50, 40))).shape
        torch.Size([3, 32, 32])
    """
    return Compose([ResizeCenterCrop(size, crop_pct), to_tensor, Normalize()])


__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Compose",
    "Normalize",
    "RandomResizedCrop",
    "ResizeCenterCrop",
    "evaluation_transform",
    "height_width",
    "pretraining_transform",
    "sample_rng",
    "to_tensor",
]
