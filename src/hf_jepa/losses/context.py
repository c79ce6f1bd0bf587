"""The loss of V-JEPA 2.1 at the visible tokens, which counts the less the further they are from what is predicted."""

import torch

from hf_jepa.losses.prediction import LOSSES


def context_distance(
    context_mask: torch.Tensor, target_mask: torch.Tensor, grid_size: tuple[int, int, int]
) -> torch.Tensor:
    """Square root of the distance from every context token to the nearest target token, in tokens.

    The distance is Euclidean over (time, height, width). It is found by a distance transform of the token grid, one
    axis after another, which takes B * N * (T' + H' + W') steps where comparing all pairs takes B * N * K.

    Args:
        context_mask: LongTensor (B, N) of indices on the grid.
        target_mask: LongTensor (B, K) of indices on the grid.
        grid_size: (T', H', W').

    Returns:
        float32 (B, N), at least 1 where context and target do not overlap.

    Example:
        >>> context, target = torch.tensor([[0, 2, 8]]), torch.tensor([[3, 4]])
        >>> context_distance(context, target, (1, 3, 3)).pow(4).round().tolist()  # squared distances
        [[1.0, 2.0, 2.0]]
    """
    rows, size = len(context_mask), grid_size[0] * grid_size[1] * grid_size[2]
    far = float(sum(extent**2 for extent in grid_size))  # more than any squared distance; all values are exact
    squared = torch.full((rows, size), far, device=context_mask.device)
    squared = squared.scatter(1, target_mask, 0.0).unflatten(1, grid_size)
    for axis, extent in enumerate(grid_size, start=1):
        place = torch.arange(extent, device=squared.device, dtype=squared.dtype)
        step = (place.unsqueeze(1) - place).square()  # (to, from)
        squared = (squared.movedim(axis, -1).unsqueeze(-2) + step).amin(-1).movedim(-1, axis)
    return squared.flatten(1).gather(1, context_mask) ** 0.25


def context_loss(
    predictions: torch.Tensor, targets: torch.Tensor, loss_type: str, distance: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean distance of predictions and targets at visible tokens, each divided by how far it is from the targets.

    Args:
        predictions, targets: (B, N, D).
        loss_type: see `prediction_loss`.
        distance: (B, N) from `context_distance`; every token counts alike when unset.

    Returns:
        scalar

    Raises:
        ValueError: unknown `loss_type`, or shapes that differ.

    Example:
        >>> ones = torch.ones(1, 2, 3)
        >>> context_loss(ones, ones * 3, "l1", torch.tensor([[1.0, 2.0]])).item()
        1.5
    """
    if loss_type not in LOSSES:
        raise ValueError(f"loss_type {loss_type!r} is not one of {', '.join(LOSSES)}")
    if predictions.shape != targets.shape or (distance is not None and distance.shape != predictions.shape[:-1]):
        shapes = [tuple(x.shape) for x in (predictions, targets, distance) if x is not None]
        raise ValueError(f"predictions, targets and distances of shapes {shapes} do not go together")
    if distance is None:
        return LOSSES[loss_type](predictions.float(), targets.float())
    by_token = LOSSES[loss_type](predictions.float(), targets.float(), reduction="none").mean(dim=-1)
    return (by_token / distance).mean()


__all__ = ["context_distance", "context_loss"]
