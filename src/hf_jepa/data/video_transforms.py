"""Clip transforms: torch only, on all frames at once.

As for images, every transform is called as `transform(frames, rng)` and takes each random number from `rng`. Frames
come as uint8 (T, H, W, C), as readers give them, and leave as float32 (T, C, H, W); one draw serves the whole clip, so
that nothing moves that did not move in the video. Official V-JEPA resizes without antialiasing in pretraining, and so
do we there, because the released weights saw such pixels; the transforms of evaluation filter, as the processors do.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import interpolate

from hf_jepa.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Compose, Normalize, RandomResizedCrop, height_width


OFFICIAL_RATIO = (3 / 4, 1.35)
CROP_PCT = 224 / 256


def frames_to_tensor(frames: np.ndarray | torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
    """uint8 (T, H, W, C) to a tensor (T, C, H, W) of the same values, without copying.

    Raises:
        TypeError: not uint8.
        ValueError: not four axes.

    Example:
        >>> frames_to_tensor(np.zeros((8, 4, 6, 3), np.uint8)).shape
        torch.Size([8, 3, 4, 6])
    """
    frames = torch.as_tensor(frames)
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8, got {frames.dtype}")
    if frames.ndim != 4:
        raise ValueError(f"frames must be (T, H, W, C), got shape {tuple(frames.shape)}")
    return frames.permute(0, 3, 1, 2)


def resize_frames(frames: torch.Tensor, size: tuple[int, int], antialias: bool) -> torch.Tensor:
    """Bilinear resize (`align_corners=False`) of all frames.

    Args:
        frames: (T, C, H, W), any dtype.
        size: (height, width).
        antialias: filter before shrinking.

    Returns:
        float32 (T, C, height, width), not rounded.

    Example:
        >>> resize_frames(torch.zeros(8, 3, 40, 60, dtype=torch.uint8), (20, 30), antialias=True).shape
        torch.Size([8, 3, 20, 30])
    """
    frames = frames.float()
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    return interpolate(frames, size, mode="bilinear", align_corners=False, antialias=antialias)


class ClipRandomResizedCrop(RandomResizedCrop):
    """One random crop for all frames, resized.

    The distribution is that of V-JEPA (2404.08471, appendix; the official configs): area uniform in `scale`, logarithm
    of width / height uniform between those of `ratio`.

    Args:
        size: of the result in pixels, an int or (height, width).
        scale, ratio: see `RandomResizedCrop`.
        antialias: filter before shrinking; the official code does not.

    Example:
        >>> from hf_jepa.data.transforms import sample_rng
        >>> crop = ClipRandomResizedCrop(32)
        >>> crop(torch.zeros(8, 3, 40, 60), sample_rng(0, 0, 0)).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: tuple[float, float] = (0.3, 1.0),
        ratio: tuple[float, float] = OFFICIAL_RATIO,
        antialias: bool = False,
    ):
        super().__init__(size, scale, ratio)
        self.antialias = antialias

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        left, top, w, h = self.box(frames.shape[-1], frames.shape[-2], rng)
        return resize_frames(frames[..., top : top + h, left : left + w], self.size, self.antialias)


class ClipHorizontalFlip:
    """Mirror the whole clip with probability `p`. Not for labels that know left from right.

    Example:
        >>> from hf_jepa.data.transforms import sample_rng
        >>> ClipHorizontalFlip(1.0)(torch.arange(3.0).view(1, 1, 1, 3), sample_rng(0, 0, 0)).flatten().tolist()
        [2.0, 1.0, 0.0]
    """

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        return frames.flip(-1) if rng.random() < self.p else frames


class ClipResizeCenterCrop:
    """Resize the short side, then cut out the centre: the function of `VJepa2VideoProcessor`, without its rounding.

    Args:
        size: of the result in pixels, an int or (height, width).
        crop_pct: longer side of the crop over short side of the resized frames; 0.875 resizes to 292 for 256.
        antialias: filter before shrinking.

    Raises:
        ValueError: crop_pct outside (0, 1].

    Example:
        >>> ClipResizeCenterCrop(32)(torch.zeros(8, 3, 40, 60)).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(self, size: int | Sequence[int], crop_pct: float = CROP_PCT, antialias: bool = True):
        if not 0 < crop_pct <= 1:
            raise ValueError(f"crop_pct must be in (0, 1], got {crop_pct}")
        self.size, self.antialias = height_width(size), antialias
        self.short_side = int(max(self.size) / crop_pct)

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
        frames = resize_frames(frames, short_side_size(frames.shape[-2:], self.short_side), self.antialias)
        top, left = ((have - want) // 2 for have, want in zip(frames.shape[-2:], self.size, strict=True))
        return frames[..., top : top + self.size[0], left : left + self.size[1]]


class ClipSpatialViews:
    """Resize the short side to the size, then cut squares along the long side: the views of evaluation.

    View i begins at i * ((long - size) // (views - 1)) pixels; one view is the middle.

    Args:
        size: side of a view in pixels.
        views: how many; official evaluation of video has three.
        antialias: filter before shrinking.

    Returns:
        of a call, float32 (views, T, C, size, size).

    Example:
        >>> ClipSpatialViews(32, views=3)(torch.zeros(8, 3, 40, 60)).shape
        torch.Size([3, 8, 3, 32, 32])
    """

    def __init__(self, size: int, views: int = 3, antialias: bool = True):
        self.size, side = height_width(size)
        if side != self.size:
            raise ValueError(f"views are squares, got size {size}")
        if views < 1:
            raise ValueError(f"views must be 1 or more, got {views}")
        self.views, self.antialias = views, antialias

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
        frames = resize_frames(frames, short_side_size(frames.shape[-2:], self.size), self.antialias)
        axis = -1 if frames.shape[-1] >= frames.shape[-2] else -2
        spare = frames.shape[axis] - self.size
        step = spare // (self.views - 1) if self.views > 1 else 0
        starts = [i * step for i in range(self.views)] if self.views > 1 else [spare // 2]
        return torch.stack([frames.narrow(axis, start, self.size) for start in starts])


def short_side_size(size: Sequence[int], short_side: int) -> tuple[int, int]:
    """(height, width) after the short side was resized, the long one rounded down as processors do.

    Example:
        >>> short_side_size((240, 320), 292)
        (292, 389)
    """
    height, width = size
    long = int(short_side * max(height, width) / min(height, width))
    return (long, short_side) if height > width else (short_side, long)


def to_unit(frames: torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
    """Values 0..255 to float32 in [0, 1].

    Example:
        >>> to_unit(torch.full((1, 1, 1, 1), 255.0)).item()
        1.0
    """
    return frames.float() / 255


def clip_pretraining_transform(
    size: int | Sequence[int],
    scale: tuple[float, float] = (0.3, 1.0),
    ratio: tuple[float, float] = OFFICIAL_RATIO,
    horizontal_flip: bool = True,
    antialias: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Compose:
    """The transform of V-JEPA pretraining: a random crop, mirrored half of the time.

    Args:
        size, scale, ratio, antialias: see `ClipRandomResizedCrop`.
        horizontal_flip: mirror every second clip.
        mean, std: of the normalisation, per channel.

    Returns:
        a transform from uint8 frames (T, H, W, C) to normalised pixels (T, C, height, width).

    Example:
        >>> from hf_jepa.data.transforms import sample_rng
        >>> transform = clip_pretraining_transform(32)
        >>> transform(np.zeros((8, 40, 60, 3), np.uint8), sample_rng(0, 0, 0)).shape
        torch.Size([8, 3, 32, 32])
    """
    steps = [frames_to_tensor, ClipRandomResizedCrop(size, scale, ratio, antialias)]
    steps += [ClipHorizontalFlip()] if horizontal_flip else []
    return Compose([*steps, to_unit, Normalize(mean, std)])


def clip_evaluation_transform(
    size: int | Sequence[int],
    crop_pct: float = CROP_PCT,
    views: int = 1,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Compose:
    """The deterministic transform of evaluation.

    Args:
        size: of the result in pixels.
        crop_pct: see `ClipResizeCenterCrop`; not used with several views, which have the full short side.
        views: 1 is the centre crop; more are crops along the long side, see `ClipSpatialViews`.
        mean, std: of the normalisation, per channel.

    Returns:
        a transform from uint8 frames (T, H, W, C) to normalised pixels (T, C, H, W), or (views, T, C, H, W).

    Example:
        >>> clip_evaluation_transform(32, views=3)(np.zeros((8, 40, 60, 3), np.uint8)).shape
        torch.Size([3, 8, 3, 32, 32])
    """
    crop = ClipResizeCenterCrop(size, crop_pct) if views == 1 else ClipSpatialViews(size, views)
    return Compose([frames_to_tensor, crop, to_unit, Normalize(mean, std)])


__all__ = [
    "ClipHorizontalFlip",
    "ClipRandomResizedCrop",
    "ClipResizeCenterCrop",
    "ClipSpatialViews",
    "clip_evaluation_transform",
    "clip_pretraining_transform",
    "frames_to_tensor",
    "resize_frames",
    "short_side_size",
    "to_unit",
]
