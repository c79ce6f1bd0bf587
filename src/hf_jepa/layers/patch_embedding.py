"""Cutting an image into patches, or a clip into tubelets, and projecting each to a token."""

from collections.abc import Sequence

import torch
from torch import nn

from hf_jepa.layers.tokens import take_tokens


def pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from an int or a pair."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


def patch_grid(pixel_values: torch.Tensor, patch_size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the patches (height, width) of images (B, C, H, W).

    Raises:
        ValueError: images that do not divide into patches.

    Example:
        >>> patch_grid(torch.zeros(1, 3, 32, 48), (8, 16))
        (4, 3)
    """
    height, width = pixel_values.shape[-2:]
    if height % patch_size[0] or width % patch_size[1] or not height or not width:
        raise ValueError(
            f"an image of {height}x{width} pixels does not divide into patches of {patch_size[0]}x{patch_size[1]}: "
            "resize or crop it to a multiple"
        )
    return height // patch_size[0], width // patch_size[1]


class PatchEmbedding2d(nn.Module):
    """Non-overlapping patches, one linear projection each (a strided convolution).

    Args:
        num_channels: channels of the image.
        hidden_size: width D of a token.
        patch_size: (height, width) of a patch in pixels.
    """

    def __init__(self, num_channels: int, hidden_size: int, patch_size: tuple[int, int]):
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(num_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def grid_size(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """(rows, columns) of the token grid of an image batch, see `patch_grid`."""
        return patch_grid(pixel_values, self.patch_size)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, rows * columns, D), row-major."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.projection.in_channels:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}: expected "
                f"(batch, {self.projection.in_channels}, height, width)"
            )
        return self.projection(pixel_values.to(self.projection.weight.dtype)).flatten(2).transpose(1, 2)


class TubeletProjection(nn.Conv3d):
    """The convolution of a tubelet embedding, also for tubelets that are cut out already: one matrix product."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tubelets (B, K, C * t * h * w) or whole clips (B, C, T, H, W) -> (B, K, D)"""
        if x.ndim == 5:
            return super().forward(x).flatten(2).transpose(1, 2).contiguous()
        return nn.functional.linear(x, self.weight.flatten(1), self.bias)


class TubeletEmbedding(nn.Module):
    """Non-overlapping tubelets (patches over a few frames), one linear projection each.

    Only the tubelets that a mask keeps are projected. Parameters are those of the strided 3-D convolution of the
    official and native classes.

    Args:
        num_channels: channels of a frame.
        hidden_size: width D of a token.
        tubelet_size: frames per token.
        patch_size: (height, width) of a patch in pixels.
    """

    def __init__(self, num_channels: int, hidden_size: int, tubelet_size: int, patch_size: tuple[int, int]):
        super().__init__()
        self.tubelet = (tubelet_size, *patch_size)
        self.proj = TubeletProjection(num_channels, hidden_size, kernel_size=self.tubelet, stride=self.tubelet)

    def grid_size(self, pixel_values_videos: torch.Tensor) -> tuple[int, int, int]:
        """(frames, rows, columns) of the token grid of clips (B, T, C, H, W).

        Raises:
            ValueError: clips that do not divide into tubelets.
        """
        frames, _, height, width = pixel_values_videos.shape[1:]
        sizes = (frames, height, width)
        if any(size % step or not size for size, step in zip(sizes, self.tubelet, strict=True)):
            raise ValueError(
                f"a clip of {frames} frames of {height}x{width} pixels does not divide into tubelets of "
                f"{self.tubelet[0]} frames of {self.tubelet[1]}x{self.tubelet[2]}: sample or crop it to multiples"
            )
        return tuple(size // step for size, step in zip(sizes, self.tubelet, strict=True))

    def forward(self, pixel_values_videos: torch.Tensor, masks: Sequence[torch.Tensor] | None = None):
        """Embed the tubelets of clips, or those of each mask.

        Args:
            pixel_values_videos: (B, T, C, H, W)
            masks: M LongTensors (B, K_i) of tubelets to keep; all of them when unset.

        Returns:
            a list of (B, N, D), or of M tensors (B, K_i, D); row-major over (time, height, width).
        """
        grid, (time, height, width) = self.grid_size(pixel_values_videos), self.tubelet
        x = pixel_values_videos.to(self.proj.weight.dtype)
        if masks is None and x.device.type == "cpu":  # where the convolution takes 0.7 of the time of what follows
            return [self.proj(x.transpose(1, 2))]
        x = x.unflatten(1, (grid[0], time)).unflatten(4, (grid[1], height)).unflatten(6, (grid[2], width))
        # (B, T', t, C, H', h, W', w) -> (B, T', H', W', C, t, h, w), the order of a convolution's weight
        tubelets = x.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(1, 3)  # (B, N, C * t * h * w)
        if masks is None:
            return [self.proj(tubelets)]
        return [self.proj(take_tokens(tubelets, mask)) for mask in masks]


def as_clips(pixel_values_videos: torch.Tensor, num_channels: int, static_frames: int) -> torch.Tensor:
    """Check a batch of clips; images become static clips.

    Args:
        pixel_values_videos: (B, T, C, H, W), or images (B, C, H, W).
        num_channels: C that the model wants.
        static_frames: frames that an image, or a clip of one frame, is repeated to.

    Returns:
        (B, T, C, H, W)

    Raises:
        TypeError: not a tensor.
        ValueError: another rank or number of channels.

    Example:
        >>> as_clips(torch.zeros(2, 3, 8, 8), 3, static_frames=2).shape
        torch.Size([2, 2, 3, 8, 8])
    """
    if not isinstance(pixel_values_videos, torch.Tensor):
        raise TypeError(f"pixel_values_videos is of type {type(pixel_values_videos).__name__}, expected a tensor")
    shape = tuple(pixel_values_videos.shape)
    clips = pixel_values_videos.unsqueeze(1) if len(shape) == 4 else pixel_values_videos
    if clips.ndim != 5 or clips.shape[2] != num_channels:
        raise ValueError(
            f"pixel_values_videos has shape {shape}: expected clips (batch, frames, {num_channels}, height, width) or "
            f"images (batch, {num_channels}, height, width)"
        )
    return clips.expand(-1, static_frames, -1, -1, -1) if clips.shape[1] == 1 else clips


__all__ = ["PatchEmbedding2d", "TubeletEmbedding", "TubeletProjection", "as_clips", "pair", "patch_grid"]
