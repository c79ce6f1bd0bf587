"""Convolutional networks with residual blocks that keep the size of their input: an encoder of frames and a U-Net."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """`relu(norm(conv(relu(norm(conv x)))) + shortcut x)` with 3x3 convolutions (He et al., 1512.03385).

    The shortcut is the identity, or a 1x1 convolution with a norm where the stride or the width changes.

    Args:
        in_channels, out_channels: widths.
        stride: of the first convolution.

    Example:
        >>> ResidualBlock(4, 8, stride=2)(torch.randn(2, 4, 9, 9)).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) -> (R, C', H', W')"""
        out = nn.functional.relu(self.norm1(self.conv1(x)))
        return nn.functional.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class ResNet5(nn.Module):
    """The small encoder of eb_jepa's videos: a stem and three residual blocks, at the full size of the image.

    Args:
        in_channels: of the image.
        hidden_sizes: widths after the stem, the first and the second block; officially `(h, h, 2 * h)`.
        out_channels: width after the third.

    Example:
        >>> ResNet5(1, (4, 4, 8), 3)(torch.randn(2, 1, 12, 10)).shape
        torch.Size([2, 3, 12, 10])
    """

    def __init__(self, in_channels: int, hidden_sizes: Sequence[int], out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, hidden_sizes[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(hidden_sizes[0])
        widths = [*hidden_sizes, out_channels]
        self.blocks = nn.ModuleList(ResidualBlock(*pair) for pair in pairwise(widths))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) -> (R, D, H, W)"""
        x = nn.functional.relu(self.norm(self.conv(pixels)))
        for block in self.blocks:
            x = block(x)
        return x


class ResUNet(nn.Module):
    """A U-Net of residual blocks: three times down, three times up, each time beside what was there on the way down.

    Sizes that do not halve evenly are made equal by bilinear interpolation.

    Args:
        in_channels: of the input.
        hidden_size: width at the full size, doubled with each of the first two halvings and with the bottleneck.
        out_channels: of the output.

    Example:
        >>> ResUNet(6, 4, 3)(torch.randn(2, 6, 12, 10)).shape
        torch.Size([2, 3, 12, 10])
    """

    def __init__(self, in_channels: int, hidden_size: int, out_channels: int):
        super().__init__()
        widths = [hidden_size * factor for factor in (1, 2, 4, 8)]
        self.conv = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.down = nn.ModuleList([ResidualBlock(widths[0], widths[0])])
        self.down.extend(ResidualBlock(*pair, stride=2) for pair in pairwise(widths))
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # (8h, 4h), (4h, 2h), (2h, h)
        self.up = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, stride=2) for wide, narrow in steps)
        self.merge = nn.ModuleList(ResidualBlock(2 * narrow, narrow) for _, narrow in steps)
        self.head = nn.Conv2d(widths[0], out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) -> (R, C', H, W)"""
        x = nn.functional.relu(self.norm(self.conv(x)))
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        skips.pop()  # the bottleneck
        for up, merge in zip(self.up, self.merge, strict=True):
            x, skip = up(x), skips.pop()
            if x.shape[-2:] != skip.shape[-2:]:
                x = nn.functional.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = merge(torch.cat([x, skip], dim=1))
        return self.head(x)


__all__ = ["ResNet5", "ResUNet", "ResidualBlock"]
