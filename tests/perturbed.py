"""Models in which nothing is 0, 1 or a copy, so that a mix-up shows."""

from typing import TypeVar

import torch
from torch import nn


Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def perturbed(model: Model, std: float = 0.05) -> Model:
    """The model, with noise on all its parameters."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * std)
    return model
