"""eb_jepa's BCS: two views agree, and the embeddings of each are normal along random directions."""

from typing import NamedTuple

import torch

from hf_jepa.losses.distributed import full_precision, global_mean
from hf_jepa.losses.sigreg import sigreg


class BcsTerms(NamedTuple):
    """The weighted sum, and the two terms before their weights. All are scalars."""

    loss: torch.Tensor
    invariance: torch.Tensor
    normality: torch.Tensor


def bcs_loss(
    first: torch.Tensor, second: torch.Tensor, step: int | None, num_slices: int = 256, weight: float = 10.0
) -> BcsTerms:
    """Batched characteristic slicing of two views, as in facebookresearch/eb_jepa, in float32.

    It is SIGReg with ten knots on [-3, 3], without the factor N, beside the mean squared difference of the views.
    Where the official code counts its calls to seed the directions, `step` is the number of the optimizer step: the
    same in every process, and after a resume.

    Args:
        first, second: (N, D)
        step: of the optimizer.
        num_slices: number of directions.
        weight: of the normality.

    Returns:
        BcsTerms: the normality is the mean over both views.

    Raises:
        ValueError: shapes that differ or are not (N, D), no step, or no sample.

    Example:
        >>> first, second = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
        >>> terms = bcs_loss(first, second, step=0)
        >>> [round(term.item(), 3) for term in terms]
        [2.475, 2.251, 0.022]
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"embeddings of shapes {tuple(first.shape)} and {tuple(second.shape)} must both be (N, D)")
    both = torch.stack([full_precision(first), full_precision(second)])  # (2, N, D)
    invariance = global_mean((both[0] - both[1]).square())
    normality = sigreg(both, step, num_slices, n_points=10, interval="full", scale_by_n=False)
    return BcsTerms(invariance + weight * normality, invariance, normality)


__all__ = ["BcsTerms", "bcs_loss"]
