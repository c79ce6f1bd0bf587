"""Moving digits: videos that need no download, in which everything is known.

Two handwritten digits of scikit-learn's `load_digits` (UCI optical recognition set, 1797 digits of 8x8 pixels) are
enlarged to 16x16 and fly over a dark canvas of 64x64, reflected at its borders. What they are, where they are and how
fast they move is known exactly, and no digit image is in both splits.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from hf_jepa.data.shared_epoch import EndlessDataset


CANVAS = 64  # side in pixels
GLYPH = 16
REACH = CANVAS - GLYPH  # largest coordinate of a digit's upper left corner
SPEED = (2.0, 4.0)  # pixels per frame
MEAN, STD = 0.0376, 0.1661  # of the pixels of many clips


class DigitClips(NamedTuple):
    """A batch of clips and all that is known about them.

    Attributes:
        pixel_values_videos: float32 (B, T, C, 64, 64), standardised.
        digits: int64 (B, 2), the classes, the smaller one first.
        position: float32 (B, T, 2, 2), row and column of the upper left corner of each digit, in pixels, 0..48.
        velocity: float32 (B, T, 2, 2), rows and columns per frame; a reflection turns its sign.
    """

    pixel_values_videos: torch.Tensor
    digits: torch.Tensor
    position: torch.Tensor
    velocity: torch.Tensor


@lru_cache(maxsize=1)
def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """All digits enlarged, float32 (1797, 16, 16) in [0, 1], and their classes, int64 (1797,).

    Raises:
        ImportError: scikit-learn is not installed.

    Example:
        >>> glyphs, classes = digit_images()
        >>> glyphs.shape, classes[:3].tolist()
        ((1797, 16, 16), [0, 1, 2])
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('the digits come with scikit-learn: run `pip install "hf_jepa[viz]"`') from error
    data = load_digits()
    glyphs = (data.images / 16).astype(np.float32).repeat(2, axis=1).repeat(2, axis=2)
    return glyphs, data.target.astype(np.int64)


def glyph_numbers(split: str) -> np.ndarray:
    """Which of the 1797 digit images belong to a split: every fifth is for testing.

    Example:
        >>> len(glyph_numbers("train")), glyph_numbers("test")[:3].tolist()
        (1438, [4, 9, 14])
    """
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is not one of train, test")
    numbers = np.arange(1797)
    return numbers[(numbers % 5 == 4) == (split == "test")]


class MovingDigits(EndlessDataset):
    """Endless clips of moving digits: clip `index` of an epoch is a pure function of (seed, epoch, index).

    Args:
        length: clips per epoch.
        split: "train" or "test", which digit images are used.
        num_frames: T.
        channels: 3 equal ones, for ordinary models, or 1.
        jump_frame: at this frame the first digit of each clip (the smaller class) is suddenly half the canvas away, in
            both directions, and flies on; None for videos without surprise. Everything else is as without the jump.
        seed: of the clips.

    Raises:
        ValueError: a length or number of frames below 1, a jump outside of the clip, other channels.

    Example:
        >>> clips = MovingDigits(length=100, num_frames=8)
        >>> clips[7]["pixel_values_videos"].shape, clips[7]["sample_index"]
        (torch.Size([8, 3, 64, 64]), 7)
        >>> clips.batch([1, 2, 3]).velocity.shape
        torch.Size([3, 8, 2, 2])
    """

    items = "clips"

    def __init__(
        self,
        length: int,
        split: str = "train",
        num_frames: int = 16,
        channels: int = 3,
        jump_frame: int | None = None,
        seed: int = 0,
    ):
        super().__init__(length, seed)
        if num_frames < 1:
            raise ValueError(f"a clip needs at least one frame, got num_frames={num_frames}")
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        if jump_frame is not None and not 0 < jump_frame < num_frames:
            raise ValueError(f"jump_frame must be in 1..{num_frames - 1}, got {jump_frame}")
        self.num_frames, self.channels, self.jump_frame = num_frames, channels, jump_frame
        self.glyphs = glyph_numbers(split)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        clips = self.batch(indices).pixel_values_videos
        return [
            {"pixel_values_videos": clip, "sample_index": int(index)}
            for clip, index in zip(clips, indices, strict=True)
        ]

    def batch(self, indices: list[int]) -> DigitClips:
        """Clips with all that is known about them, for probes and surprise curves.

        Args:
            indices: of clips, 0..length - 1.

        Returns:
            the clips in that order.

        Raises:
            IndexError: an index out of range.
        """
        uniform = np.stack([rng.random((2, 5)) for rng in self.rngs(indices)])  # (B, 2, 5)
        glyphs, classes = digit_images()
        chosen = self.glyphs[(uniform[..., 0] * len(self.glyphs)).astype(np.int64)]  # (B, 2)
        chosen = np.take_along_axis(chosen, np.argsort(classes[chosen], axis=1, kind="stable"), axis=1)
        angle = 2 * np.pi * uniform[..., 1]
        speed = SPEED[0] + (SPEED[1] - SPEED[0]) * uniform[..., 2]
        velocity = speed[..., None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)  # (B, 2, 2): row, column
        position, velocity = self._fly(uniform[..., 3:] * REACH, velocity)
        pixels = (paint_digits(glyphs[chosen], np.rint(position).astype(np.int64)) - MEAN) / STD
        pixels = torch.from_numpy(pixels).unsqueeze(2).expand(-1, -1, self.channels, -1, -1)
        as_float = (torch.from_numpy(values.astype(np.float32)) for values in (position, velocity))
        return DigitClips(pixels, torch.from_numpy(classes[chosen]), *as_float)

    def _fly(self, start: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities (B, T, 2, 2) from those of the first frame (B, 2, 2)."""
        time = np.arange(self.num_frames)[:, None, None]
        position, direction = _reflect(start[:, None] + velocity[:, None] * time)
        speed = velocity[:, None] * direction
        if self.jump_frame is not None:
            j = self.jump_frame
            here = position[:, j, :1]  # (B, 1, 2)
            there = np.where(here < REACH / 2, here + REACH / 2, here - REACH / 2)
            after, direction = _reflect(there[:, None] + speed[:, j, :1][:, None] * (time[j:] - j))
            speed[:, j:, :1] = speed[:, j, :1][:, None] * direction
            position[:, j:, :1] = after
        return position, speed


class DigitClasses(MovingDigits):
    """Moving digits with a label: which is the smaller one of the two digits.

    Clips are the same in every epoch, so that labels are known before a clip is drawn.

    Args:
        length, split, num_frames, channels, seed: as for `MovingDigits`.

    Example:
        >>> clips = DigitClasses(length=100, num_frames=4)
        >>> clips[7]["labels"] == clips.labels[7], clips.class_names[:2]
        (True, ['0', '1'])
    """

    def __init__(self, length: int, split: str = "train", num_frames: int = 16, channels: int = 3, seed: int = 0):
        super().__init__(length, split, num_frames, channels, seed=seed)
        glimpse = MovingDigits(length, split, 1, channels, seed=seed)  # the digits do not depend on the frames
        self.labels = [
            int(digits[0])
            for first in range(0, length, 256)
            for digits in glimpse.batch(range(first, min(first + 256, length))).digits
        ]
        self.class_names = [str(digit) for digit in range(10)]

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the clips are the same in every epoch."""

    def __getitems__(self, indices: list[int]) -> list[dict]:
        samples = super().__getitems__(indices)
        return [sample | {"labels": self.labels[sample["sample_index"]]} for sample in samples]


def _reflect(free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of a free flight, folded into 0..REACH, and the sign that the direction has by then."""
    folded = np.mod(free, 2 * REACH)
    back = folded > REACH
    return np.where(back, 2 * REACH - folded, folded), np.where(back, -1.0, 1.0)


def paint_digits(glyphs: np.ndarray, corner: np.ndarray, side: int = CANVAS) -> np.ndarray:
    """Paint digits on dark square canvases; where they meet, the brighter wins.

    Args:
        glyphs: (B, K, 16, 16), of any type of number.
        corner: int64 (B, T, K, 2), row and column of their upper left corners, 0..side - 16.
        side: of the canvas in pixels.

    Returns:
        (B, T, side, side), of the type of the glyphs.

    Example:
        >>> paint_digits(np.ones((1, 2, 16, 16), np.float32), np.zeros((1, 3, 2, 2), np.int64)).sum(axis=(2, 3))
        array([[256., 256., 256.]], dtype=float32)
    """
    batch, frames = corner.shape[:2]
    canvas = np.zeros((batch, frames, side * side), glyphs.dtype)
    offset = (np.arange(GLYPH)[:, None] * side + np.arange(GLYPH)).ravel()
    for k in range(glyphs.shape[1]):
        place = (corner[:, :, k, 0] * side + corner[:, :, k, 1])[..., None] + offset  # (B, T, 256)
        painted = np.maximum(np.take_along_axis(canvas, place, 2), glyphs[:, k].reshape(batch, 1, -1))
        np.put_along_axis(canvas, place, painted, 2)
    return canvas.reshape(batch, frames, side, side)


__all__ = ["DigitClasses", "DigitClips", "MovingDigits", "digit_images", "glyph_numbers", "paint_digits"]
