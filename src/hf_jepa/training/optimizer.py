"""Parameter groups: those of official pretraining, and those of fine-tuning with layer-wise decay."""

import re

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Group trainable parameters as the official code does.

    The order is context encoder with decay, predictor with decay, context encoder without, predictor without. Biases
    and one-dimensional parameters are not decayed; mask tokens are, and the matrices of adapters, which draws weights
    back to those that the adapters started from. Frozen parameters are left out.

    Args:
        model: a pretraining model; whatever is trainable outside its context encoder counts as predictor.
        weight_decay: of the decayed groups.

    Returns:
        groups for a torch optimizer; `decays` says whether a weight-decay schedule applies. Empty groups are left out.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {
        (decays, encoder): [] for decays in (True, False) for encoder in (True, False)
    }
    encoder = set(map(id, model.context_encoder.parameters()))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = is_matrix(parameter) and "bias" not in name
            groups[decays, id(parameter) in encoder].append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "decays": decays}
        for (decays, _), parameters in groups.items()
        if parameters
    ]


def layerwise_groups(model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float) -> list[dict]:
    """Group trainable parameters for fine-tuning: the further from the output, the lower the learning rate.

    The classifier and the final norm learn at `learning_rate`, the last of L layers at `layer_decay` times that, the
    first at `layer_decay ** L`, patch embeddings at `layer_decay ** (L + 1)` (ELECTRA, 2003.10555; BEiT, 2106.08254).
    Biases and one-dimensional parameters are not decayed. Frozen parameters are left out.

    Args:
        model: a classifier whose encoder has `embeddings` and `layers` (video: `layer`); adapters count with the layer
            they adapt.
        learning_rate: of the classifier.
        weight_decay: of parameters with two dimensions or more.
        layer_decay: in (0, 1]; 1 gives all layers the same rate.

    Returns:
        groups for a torch optimizer, each with its own "lr".

    Raises:
        ValueError: layer_decay outside (0, 1], or nothing to train.
    """
    if not 0.0 < layer_decay <= 1.0:
        raise ValueError(f"layer_decay is {layer_decay}: it must be above 0 and at most 1")
    # Not of a predictor, which may have more layers and plays no part.
    layer = re.compile(r"(?<!predictor)\.layers?\.(\d+)\.")
    numbers = {name: layer.search(name) for name, _ in model.named_parameters()}
    depth = 1 + max((int(match[1]) for match in numbers.values() if match), default=-1)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            match = numbers[name]
            distance = depth - int(match[1]) if match else depth + 1 if ".embeddings." in name else 0
            groups.setdefault((distance, is_matrix(parameter)), []).append(parameter)
    if not groups:
        raise ValueError(f"{type(model).__name__} has no trainable parameter")
    return [
        {"params": parameters, "lr": learning_rate * layer_decay**distance, "weight_decay": weight_decay * decays}
        for (distance, decays), parameters in groups.items()
    ]


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether it has two dimensions or more, also where ZeRO-3 has partitioned it, as it does in `from_pretrained`."""
    return len(getattr(parameter, "ds_shape", parameter.shape)) > 1


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, with the fused kernel (about three times faster than the default on a CPU)."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=learning_rate, betas=betas, eps=eps, fused=True)


__all__ = ["build_optimizer", "is_matrix", "layerwise_groups", "parameter_groups"]
