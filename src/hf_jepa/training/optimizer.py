"""The official parameter groups and the optimizer over them."""

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Group trainable parameters as the official code does.

    The order is context encoder with decay, predictor with decay, context encoder without, predictor without. Biases
    and one-dimensional parameters are not decayed; mask tokens are. Frozen parameters are left out.

    Args:
        model: a pretraining model; whatever is trainable outside `context_encoder` counts as predictor.
        weight_decay: of the decayed groups.

    Returns:
        groups for a torch optimizer; `decays` says whether a weight-decay schedule applies. Empty groups are left out.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {
        (decays, encoder): [] for decays in (True, False) for encoder in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and "bias" not in name
            groups[decays, name.startswith("context_encoder.")].append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "decays": decays}
        for (decays, _), parameters in groups.items()
        if parameters
    ]


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, with the fused kernel (about three times faster than the default on a CPU)."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=learning_rate, betas=betas, eps=eps, fused=True)


__all__ = ["build_optimizer", "parameter_groups"]
