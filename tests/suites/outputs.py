"""Outputs that are one tensor in some variants and one tensor per mask in others."""

import torch


def parts(x) -> list[torch.Tensor]:
    """The tensors of an output that is one tensor, or one per mask."""
    return [x] if isinstance(x, torch.Tensor) else list(x)


def same_parts(first, second) -> bool:
    """Whether two such outputs are equal."""
    pairs = zip(parts(first), parts(second), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
