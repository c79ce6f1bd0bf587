"""The distance between predicted and target embeddings."""

import torch
from torch import nn


def negative_cosine(predictions: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Minus the cosine similarity of rows: (..., D) to a scalar, or with "none" to (..., 1)."""
    # Norms are kept above 1e-8 one by one, as in torch's cosine similarity.
    cosine = nn.functional.cosine_similarity(predictions, targets, dim=-1)
    return -cosine.unsqueeze(-1) if reduction == "none" else -cosine.mean()


LOSSES = {
    "smooth_l1": nn.functional.smooth_l1_loss,  # beta 1
    "l1": nn.functional.l1_loss,
    "mse": nn.functional.mse_loss,
    "cosine": negative_cosine,
}
NORMALIZATIONS = ("layer_norm", "none")


def normalize_targets(targets: torch.Tensor, kind: str) -> torch.Tensor:
    """Bring target embeddings to a common scale before they are compared.

    Args:
        targets: (..., D)
        kind: "layer_norm" for a LayerNorm without learnt scale over the features (eps 1e-5), which keeps the loss from
            shrinking together with the targets; "none" leaves them alone.

    Returns:
        (..., D), float32 when normalised.

    Raises:
        ValueError: an unknown kind.

    Example:
        >>> import torch
        >>> normalize_targets(torch.tensor([1.0, 3.0]), "layer_norm").round(decimals=3).tolist()
        [-1.0, 1.0]
    """
    if kind == "layer_norm":
        return nn.functional.layer_norm(targets.float(), targets.shape[-1:])
    if kind == "none":
        return targets
    raise ValueError(f"target normalization {kind!r} is not one of {', '.join(NORMALIZATIONS)}")


def prediction_loss(predictions: torch.Tensor, targets: torch.Tensor, loss_type: str) -> torch.Tensor:
    """Mean distance between predictions and targets over all elements, in float32.

    I-JEPA's code uses smooth-L1 where its paper (section 3, eq. 1) writes a squared L2; both are offered. SimSiam
    (2011.10566, eq. 1) and NEPA (2512.16922) minimise minus the cosine similarity.

    Args:
        predictions, targets: same shape (..., D).
        loss_type: "smooth_l1" (beta 1), "l1", "mse", or "cosine", minus the cosine similarity of rows.

    Returns:
        scalar

    Raises:
        ValueError: unknown `loss_type`, or shapes that differ (they would broadcast into a wrong mean).

    Example:
        >>> import torch
        >>> prediction_loss(torch.zeros(2, 3), torch.full((2, 3), 2.0), "smooth_l1").item()
        1.5
    """
    if loss_type not in LOSSES:
        raise ValueError(f"loss_type {loss_type!r} is not one of {', '.join(LOSSES)}")
    if predictions.shape != targets.shape:
        raise ValueError(f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} differ in shape")
    return LOSSES[loss_type](predictions.float(), targets.float())


def power_loss(predictions: torch.Tensor, targets: torch.Tensor, exponent: float) -> torch.Tensor:
    """`mean(|predictions - targets|^p) / p` over all elements, in float32: "l1" for p = 1, half of "mse" for p = 2.

    Args:
        predictions, targets: same shape (..., D).
        exponent: p, at least 1.

    Returns:
        scalar

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> import torch
        >>> power_loss(torch.zeros(2, 3), torch.full((2, 3), 2.0), 2).item()
        2.0
    """
    if exponent == 1:
        return prediction_loss(predictions, targets, "l1")
    if predictions.shape != targets.shape:
        raise ValueError(f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} differ in shape")
    return (predictions.float() - targets.float()).abs().pow(exponent).mean() / exponent


__all__ = ["LOSSES", "NORMALIZATIONS", "negative_cosine", "normalize_targets", "power_loss", "prediction_loss"]
