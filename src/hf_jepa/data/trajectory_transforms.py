"""From the frames of a recorded trajectory to the pixels of a model; nothing is drawn, the camera stands still."""

from collections.abc import Sequence

import numpy as np
import torch

from hf_jepa.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Compose, Normalize, height_width
from hf_jepa.data.video_transforms import OFFICIAL_RATIO, frames_to_tensor, resize_frames, to_unit


CROPS = ("centre", "whole")


class CentreRatioCrop:
    """Cut the largest centred part whose width / height lies in a range, and resize it to the size of the model.

    What the official transform of V-JEPA 2-AC does (the config `droid-256px-8f`): it asks for a crop of more than the
    area of the frame, which never fits, so that its fallback is all that happens. Frames of 16:9 lose their sides, and
    what is left, 1.35 times as wide as high, is squeezed a little; square frames are resized as they are.

    Args:
        size: of the result in pixels, an int or (height, width).
        ratio: smallest and largest width / height of the part; None takes the whole frame, squeezed into the size.
        antialias: filter before shrinking; the official code does not.

    Example:
        >>> CentreRatioCrop(32).box(1280, 720)
        (154, 0, 972, 720)
        >>> CentreRatioCrop(32)(torch.zeros(8, 3, 40, 60)).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self, size: int | Sequence[int], ratio: tuple[float, float] | None = OFFICIAL_RATIO, antialias: bool = False
    ):
        self.size, self.ratio, self.antialias = height_width(size), ratio, antialias

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, width, height in pixels of the part of a frame."""
        if self.ratio is None:
            return 0, 0, width, height
        narrow, wide = self.ratio
        w = min(width, round(height * wide))
        h = min(height, round(width / narrow))
        return (width - w) // 2, (height - h) // 2, w, h

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
        left, top, w, h = self.box(frames.shape[-1], frames.shape[-2])
        return resize_frames(frames[..., top : top + h, left : left + w], self.size, self.antialias)


def trajectory_transform(
    size: int | Sequence[int],
    crop: str = "centre",
    antialias: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Compose:
    """The transform of recorded trajectories.

    Args:
        size: of the result in pixels, an int or (height, width).
        crop: "centre", see `CentreRatioCrop`; "whole": frames of any shape are squeezed into the size.
        antialias: filter before shrinking.
        mean, std: of the normalisation, per channel.

    Returns:
        a transform from uint8 frames (T, H, W, C) to normalised pixels (T, C, height, width).

    Raises:
        ValueError: another crop.

    Example:
        >>> trajectory_transform(32)(np.zeros((8, 40, 60, 3), np.uint8)).shape
        torch.Size([8, 3, 32, 32])
    """
    if crop not in CROPS:
        raise ValueError(f"crop {crop!r} is not one of {', '.join(CROPS)}")
    ratio = OFFICIAL_RATIO if crop == "centre" else None
    return Compose([frames_to_tensor, CentreRatioCrop(size, ratio, antialias), to_unit, Normalize(mean, std)])


__all__ = ["CROPS", "CentreRatioCrop", "trajectory_transform"]
