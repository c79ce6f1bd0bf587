"""What a probe returns, and the counting behind it."""

from dataclasses import dataclass

import torch

from hf_jepa.evaluation.inputs import check_labels


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """Outcome of a probe; print it for one line of figures.

    Args:
        predictions: (N,) LongTensor of predicted class labels, one per test row.
        accuracy: share of right first guesses, 0 to 1; None when no test labels were given.
        top5: share of rows whose label is among the first five guesses; None with fewer than five classes.
    """

    predictions: torch.Tensor
    accuracy: float | None = None
    top5: float | None = None

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"{len(self.predictions)} predictions, no labels to score them"
        top5 = "" if self.top5 is None else f", top-5 {self.top5:.4f}"
        return f"accuracy {self.accuracy:.4f}{top5} on {len(self.predictions)} rows"


def check_known_classes(classes: torch.Tensor, test_y: torch.Tensor) -> None:
    """Raise ValueError, naming them, if `test_y` holds classes that training never saw: two label maps got mixed."""
    unknown = test_y[~torch.isin(test_y, classes.to(test_y.device))].unique().tolist()
    if unknown:
        raise ValueError(
            f"test labels {unknown[:10]} do not occur among the {len(classes)} training classes: "
            "check that both splits use one label map, or drop these rows"
        )


def rank_classes(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Indices of the `k` highest scores of each row, best first; of equal scores the lower index comes first.

    Args:
        scores: (N, C)
        k: at most C.

    Returns:
        (N, k) LongTensor
    """
    return scores.argsort(dim=1, descending=True, stable=True)[:, :k]  # topk leaves the order of ties open


def topk_accuracy(scores: torch.Tensor, labels: torch.Tensor, k: int = 1) -> float:
    """Share of rows whose label is among the `k` highest scores.

    Args:
        scores: (N, C) logits or probabilities.
        labels: (N,) class indices below C.
        k: guesses per row, at most C.

    Returns:
        0 to 1

    Raises:
        ValueError: k outside 1..C, a label outside 0..C-1, no row, NaN scores.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3]])
        >>> topk_accuracy(scores, torch.tensor([1, 2])), topk_accuracy(scores, torch.tensor([1, 2]), k=2)
        (0.5, 1.0)
    """
    if scores.ndim != 2 or len(scores) == 0 or scores.isnan().any():
        raise ValueError(f"scores must be (rows, classes) without NaN, got {tuple(scores.shape)}")
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k is {k}, but there are {scores.shape[1]} classes to guess from")
    labels = check_labels(labels, len(scores)).to(scores.device)
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"labels span {labels.min()} to {labels.max()}, but there are {scores.shape[1]} classes")
    return (rank_classes(scores, k) == labels[:, None]).any(dim=1).double().mean().item()


def confusion_matrix(predictions: torch.Tensor, labels: torch.Tensor, num_classes: int | None = None) -> torch.Tensor:
    """Count how often each class is taken for each other.

    Args:
        predictions, labels: (N,) class indices.
        num_classes: C; by default one more than the highest index in either.

    Returns:
        (C, C) LongTensor, entry [label, prediction].

    Raises:
        ValueError: different lengths, no row, a negative index or one of `num_classes` and above.

    Example:
        >>> import torch
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])).tolist()
        [[1, 1], [0, 1]]
    """
    labels = check_labels(labels, len(labels))
    predictions = check_labels(predictions, len(labels), "predictions").to(labels.device)
    if len(labels) == 0:
        raise ValueError("a confusion matrix of no rows: pass at least one prediction")
    both = torch.cat([labels, predictions])
    classes = int(both.max()) + 1 if num_classes is None else num_classes
    if both.min() < 0 or both.max() >= classes:
        raise ValueError(f"class indices span {both.min()} to {both.max()}, outside 0 to {classes - 1}")
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(classes, classes)


__all__ = ["ProbeResult", "check_known_classes", "confusion_matrix", "rank_classes", "topk_accuracy"]
