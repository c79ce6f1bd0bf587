"""The residual encoder of IMPALA (Espeholt et al., 1802.01561): one vector per image, from few pixels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class ImpalaBlock(nn.Module):
    """`relu(conv(relu(conv x)) + x)`, as in eb_jepa, where IMPALA has its activations before the convolutions.

    Args:
        channels: width.

    Example:
        >>> ImpalaBlock(4)(torch.randn(2, 4, 9, 9)).shape
        torch.Size([2, 4, 9, 9])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) -> (R, C, H, W)"""
        return nn.functional.relu(self.conv2(nn.functional.relu(self.conv1(x))) + x)


class ImpalaStack(nn.Module):
    """A convolution, a pooling that halves the size, and some blocks.

    Args:
        in_channels, out_channels: widths.
        num_blocks: how many blocks follow.

    Example:
        >>> ImpalaStack(2, 4, 2)(torch.randn(2, 2, 65, 65)).shape
        torch.Size([2, 4, 33, 33])
    """

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(ImpalaBlock(out_channels) for _ in range(num_blocks)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) -> (R, C', ceil(H / 2), ceil(W / 2))"""
        return self.blocks(self.pool(self.conv(x)))


class ImpalaEncoder(nn.Module):
    """Stacks, a linear layer over all positions, and a LayerNorm.

    Args:
        image_size: (height, width) in pixels, which the linear layer is made for.
        in_channels: of the image.
        hidden_sizes: width of each stack.
        num_blocks: of each stack.
        out_features: width D of the vectors.

    Example:
        >>> ImpalaEncoder((65, 65), 2, (16, 32, 32), 2, 512)(torch.randn(3, 2, 65, 65)).shape
        torch.Size([3, 512])
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        in_channels: int,
        hidden_sizes: Sequence[int],
        num_blocks: int,
        out_features: int,
    ):
        super().__init__()
        widths = [in_channels, *hidden_sizes]
        self.stacks = nn.ModuleList(ImpalaStack(*pair, num_blocks) for pair in pairwise(widths))
        height, width = image_size
        for _ in hidden_sizes:
            height, width = (height + 1) // 2, (width + 1) // 2
        self.projection = nn.Linear(hidden_sizes[-1] * height * width, out_features)
        self.layernorm = nn.LayerNorm(out_features)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) -> (R, D)"""
        x = pixels
        for stack in self.stacks:
            x = stack(x)
        return self.layernorm(self.projection(nn.functional.relu(x).flatten(1)))


__all__ = ["ImpalaBlock", "ImpalaEncoder", "ImpalaStack"]
