"""Real images that need no download: crops of the photographs that come with scikit-image.

The question asked of features is "which picture is this a crop of?". The left half of every picture is for training,
the right half for testing, so a crop is never judged beside an overlapping one. Crops are grey and standardised one by
one: colour and brightness, which give a picture away without any learning, are gone.

scikit-image is under the BSD licence; the origin and licence of each picture is in the documentation of its function
in `skimage.data` (public domain, CC0 or other free licences).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from hf_jepa.data.shared_epoch import EndlessDataset


# All pictures that are inside the scikit-image wheel and are neither tiny, synthetic nor binary.
PICTURES = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "cell",
    "clock",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "rocket",
    "stereo_motorcycle",
    "text",
)
SCALES = (1.0, 0.7, 0.5)  # a crop covers this share of the detail of its picture
LONG_SIDE = 512  # pixels of the largest scale
STD_FLOOR = 0.05  # keeps flat crops from being blown up into noise


@lru_cache(maxsize=1)
def pictures() -> tuple[Image.Image, ...]:
    """The grey pictures, in the order of `PICTURES`, with a long side of at most 512 pixels.

    Raises:
        ImportError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError('the embedded pictures come with scikit-image: run `pip install "hf_jepa[viz]"`') from error
    found = []
    for name in PICTURES:
        pixels = getattr(data, name)()
        pixels = pixels[0] if isinstance(pixels, tuple) else pixels  # the motorcycle is a stereo pair
        picture = Image.fromarray(pixels).convert("L")
        shrink = min(1.0, LONG_SIDE / max(picture.size))
        found.append(picture.resize([round(side * shrink) for side in picture.size], Image.Resampling.BICUBIC))
    return tuple(found)


class _Pyramid:
    """Every picture at every scale in one flat array, so that a batch of crops is one gather.

    Attributes:
        pixels: (P,) grey values in [0, 1].
        start, height, width: int64 (pictures, scales), where each lies in `pixels` and its size.
    """

    def __init__(self, size: int):
        self.size = size
        levels, shapes = [], []
        for picture in pictures():
            for scale in SCALES:
                # A half must be wider, and the picture higher, than a crop.
                width = max(2 * size + 8, round(picture.width * scale))
                height = max(size + 4, round(picture.height * scale))
                levels.append(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255)
                shapes.append((height, width))
        shape = (len(PICTURES), len(SCALES))
        self.height, self.width = (np.array(side).reshape(shape) for side in zip(*shapes, strict=True))
        self.start = np.cumsum([0, *(level.size for level in levels[:-1])]).reshape(shape)
        self.pixels = np.concatenate([level.ravel() for level in levels])

    def crop(self, picture: np.ndarray, half: int, uniform: np.ndarray) -> torch.Tensor:
        """Standardised crops.

        Args:
            picture: (B,) which picture.
            half: 0 for the left half, 1 for the right half.
            uniform: (B, 3) numbers in [0, 1) that choose scale, row and column.

        Returns:
            float32 tensor (B, 3, size, size).
        """
        level = (uniform[:, 0] * len(SCALES)).astype(np.int64)
        height, width = self.height[picture, level], self.width[picture, level]
        middle = width // 2
        first = np.where(half == 0, 0, middle)
        last = np.where(half == 0, middle, width) - self.size
        top = (uniform[:, 1] * (height - self.size + 1)).astype(np.int64)
        left = first + (uniform[:, 2] * (last - first + 1)).astype(np.int64)
        corner = self.start[picture, level] + top * width + left
        offset = np.arange(self.size)
        index = corner[:, None, None] + offset[:, None] * width[:, None, None] + offset
        crops = self.pixels[index]  # (B, size, size)
        mean = crops.mean(axis=(1, 2), keepdims=True)
        crops = (crops - mean) / (crops.std(axis=(1, 2), keepdims=True) + STD_FLOOR)
        grey = torch.from_numpy(crops.astype(np.float32)).unsqueeze(1)
        return grey.expand(-1, 3, -1, -1)  # three equal channels, so that models for ordinary images fit


@lru_cache(maxsize=4)
def _pyramid(size: int) -> _Pyramid:
    return _Pyramid(size)


def _side(size: int | Sequence[int]) -> int:
    """Side of a square crop from a size as models give it: a number or (height, width)."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"the crops of the embedded pictures are square, but the model wants images of {size} pixels")
    return sides.pop()


class EmbeddedCrops(EndlessDataset):
    """Endless random crops of the left halves: sample `index` of an epoch is a pure function of (seed, epoch, index).

    Args:
        length: samples per epoch.
        size: side of a crop in pixels.
        seed: of the crops.

    Example:
        >>> crops = EmbeddedCrops(length=100, size=32)
        >>> crops[7]["pixel_values"].shape, crops[7]["sample_index"]
        (torch.Size([3, 32, 32]), 7)
        >>> len(crops.__getitems__([1, 2, 3]))
        3
    """

    items = "crops"

    def __init__(self, length: int, size: int = 48, seed: int = 0):
        super().__init__(length, seed)
        self.size = _side(size)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        uniform = np.stack([rng.random(4) for rng in self.rngs(indices)])
        picture = (uniform[:, 0] * len(PICTURES)).astype(np.int64)
        crops = _pyramid(self.size).crop(picture, 0, uniform[:, 1:])
        return [{"pixel_values": crop, "sample_index": int(index)} for crop, index in zip(crops, indices, strict=True)]


def labelled_crops(split: str, per_picture: int, size: int = 48, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A fixed, balanced set of crops with the number of their picture.

    Args:
        split: "train" for left halves, "test" for right halves.
        per_picture: crops of each picture.
        size: side of a crop in pixels.
        seed: of the crops.

    Returns:
        pixels (N, 3, size, size) and labels (N,), N = 18 * per_picture.

    Example:
        >>> pixels, labels = labelled_crops("test", per_picture=2, size=32)
        >>> pixels.shape, labels[:4].tolist()
        (torch.Size([36, 3, 32, 32]), [0, 0, 1, 1])
    """
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is not one of train, test")
    half = ("train", "test").index(split)
    picture = np.arange(len(PICTURES)).repeat(per_picture)
    uniform = np.random.default_rng((seed, half)).random((len(picture), 3))
    return _pyramid(_side(size)).crop(picture, half, uniform), torch.from_numpy(picture)


class LabelledCrops(Dataset):
    """`labelled_crops` as a data set with the face of an `ImageDataset`: samples, `labels` and `class_names`.

    Args:
        split, per_picture, size, seed: see `labelled_crops`.

    Example:
        >>> crops = LabelledCrops("train", per_picture=2, size=32)
        >>> len(crops), crops[3]["labels"], crops.class_names[1]
        (36, 1, 'brick')
    """

    class_names = list(PICTURES)

    def __init__(self, split: str, per_picture: int, size: int = 48, seed: int = 0):
        self.pixels, labels = labelled_crops(split, per_picture, size, seed)
        self.labels: list[int] = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.pixels[index], "sample_index": index, "labels": self.labels[index]}


__all__ = ["PICTURES", "EmbeddedCrops", "LabelledCrops", "labelled_crops", "pictures"]
