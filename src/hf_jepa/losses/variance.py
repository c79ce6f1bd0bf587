"""A floor under the spread of predictions, against collapse."""

from collections.abc import Sequence

import torch
from torch import nn


def prediction_std(predictions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Standard deviation of every feature over the tokens of a clip, `sqrt(var + 1e-4)`, mean over masks, in float32.

    Args:
        predictions: of every mask, (B, K_i, D).

    Returns:
        (B, D)

    Raises:
        ValueError: a mask of one token, which has no variance.

    Example:
        >>> prediction_std([torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [1.0]]])]).round(decimals=3)
        tensor([[0.7120]])
    """
    if lengths := [x.shape[1] for x in predictions if x.shape[1] < 2]:
        raise ValueError(f"predictions of {lengths[0]} token have no variance: a mask must have at least 2 targets")
    return torch.stack([(x.float().var(dim=1) + 1e-4).sqrt() for x in predictions]).mean(dim=0)


def variance_loss(std: torch.Tensor) -> torch.Tensor:
    """Mean of what standard deviations lack to 1, as in the code of V-JEPA (its released models do not use it).

    Args:
        std: of `prediction_std`, of any shape.

    Returns:
        scalar

    Example:
        >>> variance_loss(torch.tensor([[0.5, 3.0]]))
        tensor(0.2500)
    """
    return nn.functional.relu(1.0 - std).mean()


__all__ = ["prediction_std", "variance_loss"]
