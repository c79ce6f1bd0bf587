"""Tiny models of the registry in which no parameter is 0 or 1, so that a mix-up shows."""

import torch
from perturbed import perturbed
from torch import nn

from hf_jepa.registry import VARIANTS


def tiny_model(name: str, class_name: str | None = None, std: float = 0.05, **fields) -> nn.Module:
    """A tiny model of a variant, the same in every call; the pretraining model unless another class is named."""
    torch.manual_seed(0)
    variant = VARIANTS[name]
    return perturbed(variant.model_class(class_name)(variant.config_class()(**(variant.tiny | fields))), std)
