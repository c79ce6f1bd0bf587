"""Ridge probe: linear regression of numbers (positions, velocities, ...) on frozen features, in closed form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hf_jepa.evaluation.inputs import check_features, check_same_width


WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class RidgeProbeResult:
    """Outcome of a ridge probe: `predictions = x @ weight.T + bias` on features as they came.

    Args:
        predictions: (M, K) float64, one row per test row.
        r2_each: (K,) share of the variance of each number that is explained, at most 1, below 0 where the mean of the
            test rows would be a better guess; None when no test numbers were given.
        weight_decay: the one chosen.
        weight: (K, D) float64
        bias: (K,) float64
        held_out: score on the held-out training rows for each weight decay tried, R^2 (beside the variance of all
            rows) unless another was asked for; empty if there was only one.
    """

    predictions: torch.Tensor
    r2_each: torch.Tensor | None
    weight_decay: float
    weight: torch.Tensor
    bias: torch.Tensor
    held_out: dict[float, float]

    @property
    def r2(self) -> float | None:
        """Mean of `r2_each`."""
        return None if self.r2_each is None else self.r2_each.mean().item()

    def __str__(self) -> str:
        score = "no numbers to score them" if self.r2 is None else f"R^2 {self.r2:.4f}"
        return f"{score} on {len(self.predictions)} rows (weight decay {self.weight_decay:g})"


def ridge_probe(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor | None = None,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    held_out_fraction: float = 0.2,
    score: Callable[[torch.Tensor, torch.Tensor], float] | None = None,
) -> RidgeProbeResult:
    """Fit a linear map from frozen features to numbers, and score it on the test rows by R^2.

    Minimises the mean over the rows of |y - weight x - bias|^2, plus weight_decay * v * |weight|^2 with v the mean
    variance of a feature, so that the answer does not depend on the scale of the features. The bias is free. The
    weight decay is the one of the best score on the *last* training rows, which are held out from that fit: rows that
    belong together, such as the frames of a clip, stay on one side where they stand together. All in float64, through
    the eigenvalues of the smaller of X^T X and X X^T: dimensions (raw pixels) or rows may be many, but not both.

    Args:
        train_x: (N, D) features on any device; the work is done where they are.
        train_y: (N, K) numbers.
        test_x: (M, D)
        test_y: (M, K) to score against; None only predicts.
        weight_decays: to choose from; with a single one nothing is held out.
        held_out_fraction: share of the training rows held out for the choice.
        score: called with predictions and numbers of these rows (N', K), the higher the better; R^2 unless given.

    Returns:
        `RidgeProbeResult`

    Raises:
        ValueError: unusable features or numbers, a number that is the same in all test rows, no row to hold out.

    Example:
        >>> import torch
        >>> x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
        >>> y = x @ torch.tensor([[1.0], [2.0], [0.0], [0.0]]) + 3
        >>> result = ridge_probe(x[:60], y[:60], x[60:], y[60:])
        >>> result.r2 > 0.999, tuple(result.weight.shape)
        (True, (1, 4))
    """
    x, test_x = check_features(train_x, "train_x", min_rows=2), check_features(test_x, "test_x")
    check_same_width(x, test_x)
    y = _check_numbers(train_y, "train_y", len(x)).to(x.device)
    test_x = test_x.to(x.device)
    if test_y is not None:
        test_y = _check_numbers(test_y, "test_y", len(test_x)).to(x.device)
    if not weight_decays or not all(decay > 0 for decay in weight_decays):
        raise ValueError(f"weight_decays must be positive numbers, got {list(weight_decays)}")
    held_out, chosen = {}, weight_decays[0]
    if len(weight_decays) > 1:
        kept = len(x) - round(len(x) * held_out_fraction)
        if not 1 < kept < len(x) - 1:
            raise ValueError(
                f"held_out_fraction {held_out_fraction} of {len(x)} training rows leaves too few rows to fit or to "
                "choose a weight decay by: pass a single one, for example weight_decays=(1.0,)"
            )
        spread = y.var(dim=0, correction=0)  # of all rows: few held-out ones may not vary
        spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        score = score or (lambda found, numbers: 1 - ((found - numbers).square().mean(dim=0) / spread).mean().item())
        for decay, (weight, bias) in _fit(x[:kept], y[:kept], weight_decays).items():
            held_out[decay] = score(x[kept:] @ weight.T + bias, y[kept:])
        chosen = max(held_out, key=held_out.get)
    weight, bias = _fit(x, y, (chosen,))[chosen]
    predictions = test_x @ weight.T + bias
    r2_each = None if test_y is None else r2_scores(predictions, test_y)
    return RidgeProbeResult(
        predictions=predictions, r2_each=r2_each, weight_decay=chosen, weight=weight, bias=bias, held_out=held_out
    )


def r2_scores(predictions: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Share of the variance of each column that predictions explain: 1 - squared errors / squared deviations.

    Args:
        predictions, wanted: (N, K)

    Returns:
        (K,)

    Raises:
        ValueError: a column of `wanted` that does not vary, of which nothing can be explained.

    Example:
        >>> r2_scores(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [2.0], [3.0]])).tolist()
        [0.5]
    """
    deviation = (wanted - wanted.mean(dim=0)).square().sum(dim=0)
    if constant := (deviation == 0).nonzero().flatten().tolist():
        raise ValueError(f"column {constant[0]} is the same number in all {len(wanted)} rows: leave it out")
    return 1 - (predictions - wanted).square().sum(dim=0) / deviation


def _fit(
    x: torch.Tensor, y: torch.Tensor, weight_decays: Sequence[float]
) -> dict[float, tuple[torch.Tensor, torch.Tensor]]:
    """Optimal (weight (K, D), bias (K,)) for each weight decay, of one eigendecomposition."""
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    x, y = x - mean_x, y - mean_y
    scale = x.square().mean().clamp(min=torch.finfo(x.dtype).tiny) * len(x)  # N * v
    wide = x.shape[1] > len(x)
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    turned = vectors.T @ (y if wide else x.T @ y)
    fits = {}
    for decay in weight_decays:
        weight = vectors @ (turned / (values.clamp(min=0) + decay * scale)[:, None])
        weight = (x.T @ weight if wide else weight).T  # (K, D)
        fits[decay] = (weight, mean_y - weight @ mean_x)
    return fits


def _check_numbers(numbers: torch.Tensor, name: str, rows: int) -> torch.Tensor:
    numbers = check_features(numbers, name)
    if len(numbers) != rows:
        raise ValueError(f"{name} has {len(numbers)} rows: expected one for each of {rows} rows of features")
    return numbers


__all__ = ["WEIGHT_DECAYS", "RidgeProbeResult", "r2_scores", "ridge_probe"]
