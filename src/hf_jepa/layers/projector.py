"""The networks between an encoder and a joint-embedding loss, which are thrown away after pretraining."""

from collections.abc import Sequence

from torch import nn


class Projector(nn.Sequential):
    """Linear, BatchNorm and ReLU for every hidden width, then a Linear: (R, sizes[0]) -> (R, sizes[-1]).

    All variants are of this form; they differ in biases, activation and in what they append after the last Linear.

    Args:
        sizes: widths of input, hidden layers and output.
        hidden_bias: whether the layers before a BatchNorm have a bias, which the normalisation takes away again.
        bias: whether the last layer has one.
        activation: class of what follows each BatchNorm.

    Raises:
        ValueError: fewer than two sizes, or one that is not positive.

    Example:
        >>> import torch
        >>> Projector([4, 8, 8, 2])(torch.randn(16, 4)).shape
        torch.Size([16, 2])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        hidden_bias: bool = True,
        bias: bool = True,
        activation: type[nn.Module] = nn.ReLU,
    ):
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes {list(sizes)} must be two or more positive widths")
        layers = []
        for width, following in zip(sizes[:-2], sizes[1:-1], strict=True):
            layers += [nn.Linear(width, following, bias=hidden_bias), nn.BatchNorm1d(following), activation()]
        super().__init__(*layers, nn.Linear(sizes[-2], sizes[-1], bias=bias))


__all__ = ["Projector"]
