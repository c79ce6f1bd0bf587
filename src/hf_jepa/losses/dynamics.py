"""What latents of successive frames should be: slow, and telling of the action between them (eb_jepa)."""

import torch

from hf_jepa.losses.distributed import full_precision, global_mean


def temporal_similarity(latents: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the latents of successive frames, over all processes and in float32.

    Args:
        latents: (B, T, ...)

    Returns:
        scalar, zero where there is one frame only.

    Example:
        >>> temporal_similarity(torch.tensor([[[0.0], [2.0], [2.0]]])).item()
        2.0
    """
    if latents.shape[1] < 2:
        return full_precision(latents).new_zeros(())
    return global_mean(full_precision(latents).diff(dim=1).square())


def inverse_dynamics_loss(predicted: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Mean squared error of actions that were read off two successive frames, over all processes and in float32.

    Args:
        predicted: (B, T - 1, A), what a network says was done between two frames.
        actions: (B, T - 1, A), what was done.

    Returns:
        scalar

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> inverse_dynamics_loss(torch.zeros(2, 3, 1), torch.full((2, 3, 1), 2.0)).item()
        4.0
    """
    if predicted.shape != actions.shape:
        raise ValueError(f"actions {tuple(actions.shape)} beside predicted ones {tuple(predicted.shape)}")
    return global_mean((full_precision(predicted) - full_precision(actions)).square())


__all__ = ["inverse_dynamics_loss", "temporal_similarity"]
