"""Cutting an image into patches and projecting each to a token."""

import torch
from torch import nn


def pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from an int or a pair."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


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
        """(rows, columns) of the token grid of an image batch; an image that does not divide into patches raises."""
        height, width = pixel_values.shape[-2:]
        if height % self.patch_size[0] or width % self.patch_size[1] or not height or not width:
            raise ValueError(
                f"an image of {height}x{width} pixels does not divide into patches of "
                f"{self.patch_size[0]}x{self.patch_size[1]}: resize or crop it to a multiple"
            )
        return height // self.patch_size[0], width // self.patch_size[1]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, rows * columns, D), row-major."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.projection.in_channels:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}: expected "
                f"(batch, {self.projection.in_channels}, height, width)"
            )
        return self.projection(pixel_values.to(self.projection.weight.dtype)).flatten(2).transpose(1, 2)


__all__ = ["PatchEmbedding2d", "pair"]
