"""Class-mean recall: accuracy in which every class counts the same, however rare it is."""

from collections.abc import Iterable

import torch

from hf_jepa.evaluation.inputs import check_count, check_labels
from hf_jepa.evaluation.results import rank_classes


class ClassMeanRecall:
    """Class-mean recall@k and top-k accuracy, counted batch by batch and process by process.

    The recall of a class is the share of its rows whose label is among the k highest scores; the class-mean recall is
    the plain mean over the classes that occur among the labels. It is the measure of EPIC-Kitchens action
    anticipation (2006.13256), with k = 5.

    Classes outside `valid_classes` are never guessed, but rows of such a label count, as misses: a mean that left
    them out would rise when hard classes are declared invalid. V-JEPA 2 counts so, with the classes of the validation
    set as the valid ones.

    Counts are whole numbers on the CPU, so neither the order nor the size of batches changes the result. In a
    distributed run every process counts its own rows, and all counters are merged at the end, when each process has
    them all: `first, *others = gather_object([counter])` (of accelerate), then `first.merge(*others)`.

    Args:
        num_classes: C.
        k: guesses per row, at most C.
        valid_classes: indices of the classes that may be guessed; all unless given.

    Raises:
        TypeError: a count or class index that is no whole number.
        ValueError: k above the number of classes that may be guessed, or a class outside 0..C-1.

    Example:
        >>> import torch
        >>> counter = ClassMeanRecall(num_classes=3, k=1)
        >>> counter.add(torch.tensor([[9.0, 0, 0], [9, 0, 0], [9, 0, 0]]), torch.tensor([0, 0, 0]))
        >>> counter.add(torch.tensor([[9.0, 0, 0]]), torch.tensor([1]))  # the rare class is never recognised
        >>> counter.compute()
        {'recall': 0.5, 'accuracy': 0.75}
    """

    def __init__(self, num_classes: int, k: int = 5, valid_classes: torch.Tensor | Iterable[int] | None = None):
        self.num_classes = check_count(num_classes, "num_classes")
        self.k = check_count(k, "k")
        self.valid = torch.ones(num_classes, dtype=torch.bool)
        if valid_classes is not None:
            indices = valid_classes if isinstance(valid_classes, torch.Tensor) else torch.tensor([*valid_classes])
            self.valid = torch.zeros_like(self.valid)
            self.valid[self._check_classes(check_labels(indices, len(indices), "valid_classes"), "valid_classes")] = (
                True
            )
        if k > (guesses := int(self.valid.sum())):
            raise ValueError(f"k is {k}, but there are {guesses} classes to guess from")
        self.hits = torch.zeros(num_classes, dtype=torch.long)  # rows of each class whose label was guessed
        self.rows = torch.zeros(num_classes, dtype=torch.long)  # rows of each class

    def add(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch.

        Args:
            scores: (B, C), anything that grows with the probability of a class: logits or probabilities.
            labels: (B,) class indices; rows with the label -100 (videos that could not be read) are left out.

        Raises:
            TypeError: labels that are no whole numbers.
            ValueError: other shapes, NaN scores, or a label outside 0..C-1.
        """
        if scores.ndim != 2 or scores.shape[1] != self.num_classes or scores.isnan().any():
            raise ValueError(f"scores must be (rows, {self.num_classes}) without NaN, got {tuple(scores.shape)}")
        labels = check_labels(labels, len(scores)).to(scores.device)
        known = labels != -100
        scores, labels = scores[known], self._check_classes(labels[known], "labels")
        choices = self.valid.nonzero()[:, 0].to(scores.device)
        guesses = choices[rank_classes(scores[:, choices], self.k)]  # (B, k)
        hit = (guesses == labels[:, None]).any(dim=1)
        self.rows = self.rows + torch.bincount(labels, minlength=self.num_classes).cpu()
        self.hits = self.hits + torch.bincount(labels[hit], minlength=self.num_classes).cpu()

    def merge(self, *others: "ClassMeanRecall") -> None:
        """Add the counts of other counters, of the same classes and k; they stay as they are.

        Raises:
            ValueError: one of them counts something else; nothing was added then.
        """
        for other in others:
            if other.k != self.k or not torch.equal(other.valid, self.valid):
                raise ValueError(
                    f"counters of {self.num_classes} classes with k={self.k} and of {other.num_classes} classes with "
                    f"k={other.k} cannot be merged: give all processes the same num_classes, k and valid_classes"
                )
        self.hits = sum((other.hits for other in others), start=self.hits)
        self.rows = sum((other.rows for other in others), start=self.rows)

    def compute(self) -> dict[str, float]:
        """Class-mean recall@k and top-k accuracy of all rows counted so far, both 0 to 1.

        Raises:
            ValueError: no row was counted.
        """
        present = self.rows > 0
        if not present.any():
            raise ValueError("the recall of no rows: add at least one with a label")
        recall = self.hits[present].double() / self.rows[present].double()
        return {"recall": recall.mean().item(), "accuracy": self.hits.sum().item() / self.rows.sum().item()}

    def _check_classes(self, indices: torch.Tensor, name: str) -> torch.Tensor:
        if len(indices) and (indices.min() < 0 or indices.max() >= self.num_classes):
            span = f"{indices.min()} to {indices.max()}"
            raise ValueError(f"{name} span {span}, but there are {self.num_classes} classes")
        return indices


def class_mean_recall(
    scores: torch.Tensor,
    labels: torch.Tensor,
    k: int = 5,
    valid_classes: torch.Tensor | Iterable[int] | None = None,
) -> float:
    """Mean over the classes that occur of the share of their rows whose label is among the `k` highest scores.

    Args:
        scores: (N, C) logits or probabilities.
        labels: (N,) class indices below C.
        k, valid_classes: as of `ClassMeanRecall`.

    Returns:
        0 to 1

    Raises:
        TypeError, ValueError: as `ClassMeanRecall`.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[9.0, 5, 0], [9, 5, 0], [9, 0, 5]])
        >>> labels = torch.tensor([0, 0, 2])
        >>> class_mean_recall(scores, labels, k=1), class_mean_recall(scores, labels, k=2)
        (0.5, 1.0)
    """
    counter = ClassMeanRecall(scores.shape[-1], k, valid_classes)
    counter.add(scores, labels)
    return counter.compute()["recall"]


__all__ = ["ClassMeanRecall", "class_mean_recall"]
