"""VICReg: embeddings of two views agree, every feature varies over the batch, and no two features say the same.

Implementations scale the terms differently; `SCALINGS` names them. Statistics are those of the global batch.
"""

from typing import NamedTuple

import torch
from torch import nn

from hf_jepa.losses.distributed import full_precision, gather_rows, global_mean
from hf_jepa.losses.dynamics import temporal_similarity


class VicRegScaling(NamedTuple):
    """What an implementation does with the terms, and the weights it gives them.

    Args:
        mean_variance: halve the sum of the variance terms of the two views.
        mean_covariance: mean over the D(D - 1) pairs of features, where others divide their sum by D.
        invariance_weight, variance_weight, covariance_weight: the usual ones.
    """

    mean_variance: bool
    mean_covariance: bool
    invariance_weight: float
    variance_weight: float
    covariance_weight: float


SCALINGS = {
    "official": VicRegScaling(True, False, 25.0, 25.0, 1.0),
    "solo_learn": VicRegScaling(False, False, 25.0, 25.0, 1.0),
    "eb_jepa": VicRegScaling(False, True, 1.0, 1.0, 80.0),
}
VIDEO_SAMPLES = ("first_t", "all_t", "first_t_spatial", "all_t_spatial")


class VicRegTerms(NamedTuple):
    """Terms of VICReg, before their weights, and the weighted sum of them. All are scalars."""

    loss: torch.Tensor
    invariance: torch.Tensor
    variance: torch.Tensor
    covariance: torch.Tensor


class VideoVcTerms(NamedTuple):
    """Terms of eb_jepa's regulariser of videos, without weights. All are scalars."""

    variance: torch.Tensor
    covariance: torch.Tensor
    similarity: torch.Tensor


def variance_term(z: torch.Tensor, gamma: float = 1.0, eps: float = 1e-4) -> torch.Tensor:
    """What the standard deviation of every feature over the batch lacks to `gamma` (VICReg, 2105.04906, eq. 1).

    `mean_j relu(gamma - sqrt(var_j + eps))` with the unbiased variance over the rows of all processes, in float32.

    Args:
        z: (..., N, D); leading axes are independent batches, of which the mean is taken.
        gamma: the standard deviation asked for.
        eps: keeps the gradient of the root finite.

    Returns:
        scalar

    Raises:
        ValueError: fewer than 2 rows, which have no variance.

    Example:
        >>> variance_term(torch.tensor([[0.0, -2.0], [0.0, 2.0]])).item()  # one feature collapsed, one not
        0.4950000047683716
    """
    return _variance(_global_batch(z), gamma, eps)


def covariance_term(z: torch.Tensor, scaling: str = "official") -> torch.Tensor:
    """Squared covariances of all pairs of different features over the batch (VICReg, 2105.04906, eq. 3 and 4).

    With `N - 1` in the denominator of a covariance, over the rows of all processes, in float32.

    Args:
        z: (..., N, D); leading axes are independent batches, of which the mean is taken.
        scaling: "official" and "solo_learn" divide the sum over ordered pairs by D, "eb_jepa" by D(D - 1).

    Returns:
        scalar

    Raises:
        ValueError: an unknown scaling, or fewer than 2 rows.

    Example:
        >>> z = torch.tensor([[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]])  # two of three features are equal
        >>> covariance_term(z, "official").item(), covariance_term(z, "eb_jepa").item()
        (2.6666667461395264, 1.3333333730697632)
    """
    return _covariance(_global_batch(z), _scaling(scaling).mean_covariance)


def vicreg_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    scaling: str = "official",
    invariance_weight: float | None = None,
    variance_weight: float | None = None,
    covariance_weight: float | None = None,
    gamma: float = 1.0,
    eps: float = 1e-4,
) -> VicRegTerms:
    """VICReg (2105.04906) of the embeddings of two views, in float32.

    | scaling | variance | covariance | weights (invariance, variance, covariance) |
    |---|---|---|---|
    | official | mean of both views | sum of both, over D | 25, 25, 1 |
    | solo_learn | sum of both | sum of both, over D | 25, 25, 1: twice the official weight of the variance |
    | eb_jepa | sum of both | sum of both, over D(D - 1) | 1, 1, 80 |

    The invariance is the mean squared difference. All terms are those of the global batch, where every row counts
    alike however uneven the processes' shares are. (Official: invariance of the local batch, which gives the same
    gradient where shares are even.)

    Args:
        first, second: (N, D)
        scaling: of the terms, see the table.
        invariance_weight, variance_weight, covariance_weight: those of the scaling when unset.
        gamma, eps: see `variance_term`.

    Returns:
        VicRegTerms: `loss` is the weighted sum of the other three.

    Raises:
        ValueError: an unknown scaling, shapes that differ or are not (N, D), or fewer than 2 rows.

    Example:
        >>> first = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> terms = vicreg_loss(first, first.flip(1))
        >>> [round(term.item(), 3) for term in terms]
        [37.375, 1.0, 0.495, 0.0]
    """
    chosen = _scaling(scaling)
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"embeddings of shapes {tuple(first.shape)} and {tuple(second.shape)} must both be (N, D)")
    weights = [
        usual if given is None else given
        for given, usual in zip((invariance_weight, variance_weight, covariance_weight), chosen[2:], strict=True)
    ]
    both = torch.stack([full_precision(first), full_precision(second)])  # (2, N, D)
    invariance = global_mean((both[0] - both[1]).square())
    both = _global_batch(both)
    variance = _variance(both, gamma, eps) * (1 if chosen.mean_variance else 2)
    covariance = 2 * _covariance(both, chosen.mean_covariance)
    terms = (invariance, variance, covariance)
    return VicRegTerms(sum(weight * term for weight, term in zip(weights, terms, strict=True)), *terms)


def video_vc_terms(features: torch.Tensor, samples: str = "first_t") -> VideoVcTerms:
    """Variance, covariance and slowness of features of videos, as eb_jepa has them (facebookresearch/eb_jepa).

    Its `VCLoss` is the first two terms with the samples "all_t_spatial".

    Args:
        features: (B, C, T, H, W)
        samples: what the rows of the statistics are.
            "first_t": (B, C*H*W), the first time only. "all_t": (B*T, C*H*W).
            "first_t_spatial": (B*H*W, C), the first time only. "all_t_spatial": (B*T*H*W, C).

    Returns:
        VideoVcTerms: the variance and covariance terms in eb_jepa's scaling, and the mean squared difference of
        features one time apart (zero if there is one time only).

    Raises:
        ValueError: unknown samples, another number of axes, or fewer than 2 rows.

    Example:
        >>> features = torch.arange(24.0).view(2, 3, 2, 1, 2)
        >>> variance, covariance, similarity = video_vc_terms(features, "all_t_spatial")
        >>> variance.item(), similarity.item()
        (0.0, 4.0)
    """
    features = full_precision(features)
    variance, covariance = video_variance_covariance(features, samples)
    return VideoVcTerms(variance, covariance, temporal_similarity(features.movedim(2, 1)))


def video_variance_covariance(
    features: torch.Tensor, samples: str = "first_t", margin: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first two terms of `video_vc_terms`.

    Args:
        features: (B, C, T, H, W)
        samples: what the rows of the statistics are, see `video_vc_terms`.
        margin: the standard deviation asked for.

    Returns:
        two scalars

    Raises:
        ValueError: unknown samples, another number of axes, or fewer than 2 rows.

    Example:
        >>> variance, covariance = video_variance_covariance(torch.zeros(2, 3, 2, 1, 2), margin=2.0)
        >>> round(variance.item(), 2), covariance.item()
        (1.99, 0.0)
    """
    if samples not in VIDEO_SAMPLES:
        raise ValueError(f"samples {samples!r} is not one of {', '.join(VIDEO_SAMPLES)}")
    if features.ndim != 5:
        raise ValueError(f"features of shape {tuple(features.shape)} are not (B, C, T, H, W)")
    times = features[:, :, :1] if samples.startswith("first_t") else features
    if samples.endswith("spatial"):
        rows = times.movedim(1, -1).flatten(0, -2)
    else:
        rows = times.movedim(2, 1).flatten(0, 1).flatten(1)
    rows = _global_batch(rows)
    return _variance(rows, margin, 1e-4), _covariance(rows, True)


def _scaling(name: str) -> VicRegScaling:
    if name not in SCALINGS:
        raise ValueError(f"scaling {name!r} is not one of {', '.join(SCALINGS)}")
    return SCALINGS[name]


def _global_batch(z: torch.Tensor) -> torch.Tensor:
    """(..., N_r, D) of this process -> (..., N, D) of all, in float32."""
    if z.ndim < 2:
        raise ValueError(f"embeddings of shape {tuple(z.shape)} are not (..., N, D)")
    z = gather_rows(full_precision(z).movedim(-2, 0)).movedim(0, -2)
    if z.shape[-2] < 2:
        raise ValueError(f"embeddings of shape {tuple(z.shape)} have no variance: the batch must have at least 2 rows")
    return z


def _variance(z: torch.Tensor, gamma: float, eps: float) -> torch.Tensor:
    return nn.functional.relu(gamma - (z.var(dim=-2) + eps).sqrt()).mean()


def _covariance(z: torch.Tensor, mean: bool) -> torch.Tensor:
    features = z.shape[-1]
    z = z - z.mean(dim=-2, keepdim=True)
    with torch.autocast(z.device.type, enabled=False):
        covariance = z.mT @ z / (z.shape[-2] - 1)  # (..., D, D)
    different = ~torch.eye(features, dtype=torch.bool, device=z.device)
    pairs = features * max(features - 1, 1) if mean else features
    return (covariance * different).square().sum(dim=(-2, -1)).mean() / pairs


__all__ = [
    "SCALINGS",
    "VIDEO_SAMPLES",
    "VicRegScaling",
    "VicRegTerms",
    "VideoVcTerms",
    "covariance_term",
    "variance_term",
    "vicreg_loss",
    "video_variance_covariance",
    "video_vc_terms",
]
