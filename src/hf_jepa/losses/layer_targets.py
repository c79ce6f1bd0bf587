"""Regression of the averaged top layers of a teacher: the targets, the loss and the collapse signals of data2vec."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from hf_jepa.losses.distributed import global_mean, process_count


LAYER_NORMALIZATIONS = ("layer_norm", "instance_norm", "batch_norm", "group_norm", "none")
MEAN_NORMALIZATIONS = ("layer_norm", "instance_norm", "none")
_EPS = 1e-5


def layer_targets(
    layers: Sequence[torch.Tensor],
    *,
    per_layer: str = "none",
    after_mean: str = "none",
    valid: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of the outputs of several layers, each normalised, then normalised again (data2vec, section 3.3).

    The recipes of arXiv 2202.03555 are: vision, "layer_norm" after the mean; speech, "instance_norm" per layer; text,
    "layer_norm" per layer.

    Args:
        layers: outputs (B, T, D) of the last layers of a teacher.
        per_layer: "layer_norm" over D; "instance_norm" over T, for each sample and feature; "batch_norm" over B and T,
            for each feature; "group_norm" over T and D, for each sample; "none". All without learnt scale, eps 1e-5,
            biased variance.
        after_mean: "layer_norm", "instance_norm" or "none", of the mean.
        valid: BoolTensor (B, T), False where a sequence is padded. Statistics over T then leave the padding out; the
            official code counts it in, as happens here without `valid`. What stands at padded places has no meaning.

    Returns:
        float32 (B, T, D)

    Raises:
        ValueError: no layers, or a kind of normalisation that is not offered.

    Example:
        >>> layers = [torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[3.0, 9.0]]])]
        >>> layer_targets(layers).tolist()
        [[[2.0, 6.0]]]
        >>> layer_targets(layers, after_mean="layer_norm").round(decimals=3).tolist()
        [[[-1.0, 1.0]]]
    """
    if not layers:
        raise ValueError("targets are a mean of layers: give at least one")
    if per_layer not in LAYER_NORMALIZATIONS:
        raise ValueError(f"normalization of layers {per_layer!r} is not one of {', '.join(LAYER_NORMALIZATIONS)}")
    if after_mean not in MEAN_NORMALIZATIONS:
        raise ValueError(f"normalization of the mean {after_mean!r} is not one of {', '.join(MEAN_NORMALIZATIONS)}")
    mean = sum(_normalize(layer.float(), per_layer, valid) for layer in layers) / len(layers)
    return _normalize(mean, after_mean, valid)


# The dimensions of (B, T, D) over which each kind takes its statistics.
_OVER = {"layer_norm": (2,), "instance_norm": (1,), "batch_norm": (0, 1), "group_norm": (1, 2)}


def _normalize(x: torch.Tensor, kind: str, valid: torch.Tensor | None) -> torch.Tensor:
    if kind == "none":
        return x
    if kind == "layer_norm":
        return nn.functional.layer_norm(x, x.shape[-1:], eps=_EPS)
    over = _OVER[kind]
    if valid is None:
        var, mean = torch.var_mean(x, dim=over, correction=0, keepdim=True)
    else:
        weight = valid.unsqueeze(-1).to(x.dtype).expand_as(x)
        total = weight.sum(dim=over, keepdim=True).clamp(min=1.0)  # a sequence of padding alone has no statistics
        mean = (x * weight).sum(dim=over, keepdim=True) / total
        var = ((x - mean).square() * weight).sum(dim=over, keepdim=True) / total
    return (x - mean) * torch.rsqrt(var + _EPS)


def data2vec_loss(
    predictions: torch.Tensor, targets: torch.Tensor, *, beta: float = 0.0, scale: float | None = None
) -> torch.Tensor:
    """Smooth-L1 distance, summed over features and averaged over tokens, in float32 (data2vec, section 3.4).

    The mean is that over the masked tokens of all processes, as in the official code (see `global_mean`).

    Args:
        predictions, targets: (R, D), one row for each masked token of the batch.
        beta: where the loss turns from quadratic to linear; 0 stands for the squared error (not half of it), where
            `torch.nn.functional.smooth_l1_loss` would give L1.
        scale: factor of the sum over features; `1 / sqrt(D)` when None.

    Returns:
        scalar

    Raises:
        ValueError: shapes that differ or are not (R, D), no row at all, or a negative beta.

    Example:
        >>> data2vec_loss(torch.zeros(2, 4), torch.full((2, 4), 3.0), beta=2.0)  # 4 features x (3 - 2 / 2) / sqrt(4)
        tensor(4.)
        >>> data2vec_loss(torch.zeros(2, 4), torch.full((2, 4), 3.0), scale=1.0)
        tensor(36.)
    """
    if predictions.shape != targets.shape or predictions.ndim != 2:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} must both be (rows, features)"
        )
    if len(predictions) == 0 and process_count() == 1:
        raise ValueError("no token is masked, so there is nothing to predict: check the mask")
    if beta < 0:
        raise ValueError(f"beta must not be negative, got {beta}")
    predictions, targets = predictions.float(), targets.float()
    if beta == 0:
        distance = nn.functional.mse_loss(predictions, targets, reduction="none")
    else:
        distance = nn.functional.smooth_l1_loss(predictions, targets, beta=beta, reduction="none")
    scale = 1.0 / math.sqrt(predictions.shape[-1]) if scale is None else scale
    return global_mean(distance.sum(dim=-1)) * scale


def feature_spread(rows: torch.Tensor) -> torch.Tensor:
    """How far rows lie apart, `sqrt(var + 1e-6)` averaged over features: near 0 where all rows are the same.

    data2vec watches it on targets ("target_var") and predictions ("pred_var"), and gives up on a run of speech where
    it falls below 0.1 and 0.01 after 5000 updates.

    Args:
        rows: (R, D), of masked tokens; at least two.

    Returns:
        scalar, float32

    Raises:
        ValueError: fewer than two rows have no variance.

    Example:
        >>> feature_spread(torch.tensor([[1.0, 0.0], [3.0, 0.0]])).round(decimals=3)
        tensor(0.7080)
    """
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"rows of shape {tuple(rows.shape)}: at least two of (R, D) are needed for a variance")
    return (rows.float().var(dim=0) + 1e-6).sqrt().mean()


__all__ = ["LAYER_NORMALIZATIONS", "MEAN_NORMALIZATIONS", "data2vec_loss", "feature_spread", "layer_targets"]
