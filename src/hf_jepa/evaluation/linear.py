"""Linear probe: multinomial logistic regression on frozen features."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from hf_jepa.evaluation.inputs import check_count, check_features, check_labels, check_same_width
from hf_jepa.evaluation.results import ProbeResult, check_known_classes, rank_classes, topk_accuracy


logger = logging.getLogger(__name__)
WEIGHT_DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearProbeResult(ProbeResult):
    """A `ProbeResult` with the classifier that made it: `logits = x @ weight.T + bias` on features as they came.

    Args:
        weight_decay: the one chosen.
        weight: (C, D) float64, the standardisation folded in.
        bias: (C,) float64
        classes: (C,) the label of each row of `weight`.
        held_out: accuracy on the held-out training rows for each weight decay tried; empty if there was only one.
    """

    weight_decay: float
    weight: torch.Tensor
    bias: torch.Tensor
    classes: torch.Tensor
    held_out: dict[float, float]

    def __str__(self) -> str:
        return f"{super().__str__()} (weight decay {self.weight_decay:g})"


def linear_probe(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor | None = None,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    held_out_fraction: float = 0.2,
    max_iterations: int = 300,
    seed: int = 0,
) -> LinearProbeResult:
    """Fit a linear classifier on standardised frozen features and score it on the test rows.

    Full-batch L-BFGS in float64 on mean cross entropy + weight_decay / 2 * |weight|^2 (bias free): the answer is
    the optimum and depends on no learning rate, batch size or number of epochs. scikit-learn's C is
    1 / (N * weight_decay). Each weight decay is tried on a stratified part of the training rows held out from the fit;
    the one of the best accuracy there (on a tie, of the lowest loss) is fitted again on all of them. I-JEPA
    (2301.08243, section 4 and appendix A) follows VISSL's recipe instead: figures are comparable, not equal. For data
    that fit into memory, up to some 100 000 rows.

    Args:
        train_x: (N, D) features on any device; the work is done where they are.
        train_y: (N,) class labels, any whole numbers, of at least two classes.
        test_x: (M, D)
        test_y: (M,) labels to score against; None only predicts.
        weight_decays: L2 strengths to choose from; with a single one nothing is held out.
        held_out_fraction: share of each class held out for the choice; a class with one row stays in the fit.
        max_iterations: L-BFGS iterations of each fit.
        seed: of the held-out choice; everything else is deterministic.

    Returns:
        `LinearProbeResult`

    Raises:
        ValueError: unusable features or labels, a single class, test labels that training never saw, or no row
            to hold out.

    Example:
        >>> import torch
        >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> y = (x[:, 0] > 0).long()
        >>> result = linear_probe(x[:100], y[:100], x[100:], y[100:])  # print(result) gives one line of figures
        >>> result.accuracy > 0.9, tuple(result.weight.shape)
        (True, (2, 4))
    """
    train_x, test_x = check_features(train_x, "train_x", min_rows=2), check_features(test_x, "test_x")
    test_x = test_x.to(train_x.device)
    check_same_width(train_x, test_x)
    classes, target = check_labels(train_y, len(train_x), "train_y").to(train_x.device).unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"all {len(train_x)} training rows have label {classes[0].item()}: a probe needs two classes")
    if not weight_decays or not all(decay > 0 for decay in weight_decays):
        raise ValueError(f"weight_decays must be positive numbers, got {list(weight_decays)}")
    check_count(max_iterations, "max_iterations")
    if test_y is not None:
        test_y = check_labels(test_y, len(test_x), "test_y").to(train_x.device).contiguous()
        check_known_classes(classes, test_y)

    held_out, chosen = {}, weight_decays[0]
    if len(weight_decays) > 1:
        held_out, chosen = _choose_weight_decay(
            train_x, target, weight_decays, held_out_fraction, max_iterations, seed
        )
    weight, bias = _fit(train_x, target, (chosen,), max_iterations)[chosen]
    logits = test_x @ weight.T + bias  # (M, C)
    extra = {"weight_decay": chosen, "weight": weight, "bias": bias, "classes": classes, "held_out": held_out}
    predictions = classes[rank_classes(logits, 1)[:, 0]]
    if test_y is None:
        return LinearProbeResult(predictions, **extra)
    index = torch.searchsorted(classes, test_y)
    top5 = topk_accuracy(logits, index, 5) if len(classes) >= 5 else None
    return LinearProbeResult(predictions, topk_accuracy(logits, index), top5, **extra)


def _choose_weight_decay(
    x: torch.Tensor, target: torch.Tensor, weight_decays: Sequence[float], fraction: float, iterations: int, seed: int
) -> tuple[dict[float, float], float]:
    """Accuracy of each weight decay on held-out rows, and the best of them."""
    held = _held_out_mask(target, fraction, seed)
    if not held.any():
        raise ValueError(
            f"held_out_fraction {fraction} of {len(x)} training rows leaves none to choose a weight decay by: "
            "pass a single one, for example weight_decays=(1e-2,)"
        )
    accuracy, loss = {}, {}
    for decay, (weight, bias) in _fit(x[~held], target[~held], weight_decays, iterations).items():
        logits = x[held] @ weight.T + bias
        accuracy[decay] = topk_accuracy(logits, target[held])
        loss[decay] = cross_entropy(logits, target[held]).item()
    return accuracy, max(accuracy, key=lambda decay: (accuracy[decay], -loss[decay]))


def _held_out_mask(target: torch.Tensor, fraction: float, seed: int) -> torch.Tensor:
    """(N,) bool: about `fraction` of each class, but never its last row."""
    if not 0 < fraction < 1:
        raise ValueError(f"held_out_fraction is {fraction}: it must lie between 0 and 1")
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(len(target), dtype=torch.bool)
    labels = target.cpu()[order]
    for c in range(int(labels.max()) + 1):
        rows = order[labels == c]
        mask[rows[: min(round(len(rows) * fraction), len(rows) - 1)]] = True
    return mask.to(target.device)


def _fit(
    x: torch.Tensor, target: torch.Tensor, weight_decays: Sequence[float], iterations: int
) -> dict[float, tuple[torch.Tensor, torch.Tensor]]:
    """Optimal (weight (C, D), bias (C,)) for each weight decay, from the strongest down: each starts at the last."""
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    std = torch.where(std > 1e-8 * x.abs().amax(dim=0), std, torch.ones_like(std))  # a constant column says nothing
    fits = {}
    with torch.inference_mode(False), torch.enable_grad():  # callers often sit inside no_grad
        x = (x - mean) / std
        classes = int(target.max()) + 1
        weight = x.new_zeros(classes, x.shape[1]).requires_grad_()
        bias = x.new_zeros(classes).requires_grad_()
        for decay in sorted(weight_decays, reverse=True):
            _minimize(x, target.clone(), weight, bias, decay, iterations)
            raw = weight.detach() / std  # as it acts on features that are not standardised
            fits[decay] = (raw, bias.detach() - raw @ mean)
    return fits


def _minimize(
    x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, decay: float, iterations: int
) -> None:
    """L-BFGS from the present `weight` and `bias`, in place."""
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(x @ weight.T + bias, target) + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    gradient = max(weight.grad.abs().max().item(), bias.grad.abs().max().item())
    if gradient > 1e-3:
        logger.warning(
            "linear probe with weight decay %g is not at its optimum after %d iterations (largest gradient %.1e): "
            "raise max_iterations",
            decay,
            iterations,
            gradient,
        )


__all__ = ["WEIGHT_DECAYS", "LinearProbeResult", "linear_probe"]
