"""The focal loss of action anticipation, where few of many classes are frequent."""

import torch
from torch import nn


REDUCTIONS = ("sum", "mean")
IGNORED = -100  # as in torch's cross-entropy


def sigmoid_focal_loss(
    logits: torch.Tensor, labels: torch.Tensor, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "sum"
) -> torch.Tensor:
    """Focal loss (Lin et al., 1708.02002, eq. 5) of one independent yes-or-no decision per class, in float32.

    `-alpha_t (1 - p_t)^gamma log p_t`, where p_t is the probability of the right decision, and alpha_t is `alpha` for
    the class of the label and `1 - alpha` for all others. V-JEPA 2 (2506.09985) adds up those of verb, noun and
    action, each by "sum": its size, and with it the gradient, grows with the batch.

    Args:
        logits: (B, C)
        labels: (B,) class indices; rows with the label -100 count nothing. (Other indices outside 0..C-1 make torch
            raise a RuntimeError.)
        alpha: weight of the positive decisions, in [0, 1].
        gamma: how little easy decisions count; 0 is plain cross-entropy.
        reduction: "sum" over rows and classes, or "mean" over both.

    Returns:
        scalar; a mean over no row is NaN, as in torch.

    Raises:
        ValueError: unknown reduction, alpha or gamma out of range, or shapes that do not fit each other.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[4.0, -4.0, 0.0]])  # sure of class 0, undecided about class 2
        >>> [round(sigmoid_focal_loss(logits, torch.tensor([label])).item(), 3) for label in (0, 1, 2)]
        [0.13, 4.005, 2.95]
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction {reduction!r} is not one of {', '.join(REDUCTIONS)}")
    if not (0.0 <= alpha <= 1.0 and gamma >= 0.0):
        raise ValueError(f"alpha {alpha} must be in [0, 1] and gamma {gamma} must be 0 or more")
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (rows, classes) and (rows,)"
        )
    known = labels != IGNORED  # (B,)
    positive = nn.functional.one_hot(labels.masked_fill(~known, 0), logits.shape[1]).float()  # (B, C)
    surprise = nn.functional.binary_cross_entropy_with_logits(logits.float(), positive, reduction="none")  # -log p_t
    wrong = -torch.expm1(-surprise)  # 1 - p_t, precise where it is small
    weight = torch.where(positive.bool(), alpha, 1.0 - alpha)
    total = (weight * wrong**gamma * surprise).masked_fill(~known[:, None], 0.0).sum()
    return total if reduction == "sum" else total / (known.sum() * logits.shape[1])


__all__ = ["sigmoid_focal_loss"]
