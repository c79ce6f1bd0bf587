"""Choosing few labelled rows: the 1 %, 10 % and k-per-class protocols."""

import torch

from hf_jepa.evaluation.inputs import check_count, check_labels


def low_shot_indices(
    labels: torch.Tensor, fraction: float | None = None, per_class: int | None = None, seed: int = 0
) -> torch.Tensor:
    """Choose a stratified subset of rows, the same for the same labels and seed, and nested as it grows.

    I-JEPA (2301.08243, section 4) reports ImageNet with 1 % of the labels, about 13 images of each class. This draws a
    subset of that kind for any data; it is not the published list of ImageNet images.

    Args:
        labels: (N,) class labels, any whole numbers.
        fraction: share of each class to keep, rounded, but at least one row; or
        per_class: rows of each class to keep.
        seed: which subset.

    Returns:
        LongTensor of row numbers in ascending order, on the CPU.

    Raises:
        ValueError: not exactly one of `fraction` and `per_class`, fraction outside (0, 1], per_class below 1 or above
            the size of a class (which is named), no label.

    Example:
        >>> import torch
        >>> labels = torch.tensor([0] * 10 + [7] * 5)
        >>> labels[low_shot_indices(labels, per_class=2)].tolist()
        [0, 0, 7, 7]
        >>> labels[low_shot_indices(labels, fraction=0.1)].tolist()
        [0, 7]
    """
    labels = torch.as_tensor(labels)
    if labels.numel() == 0:
        raise ValueError("labels is empty: there is nothing to choose from")
    labels = check_labels(labels, labels.numel()).cpu()
    if (fraction is None) == (per_class is None):
        raise ValueError(f"pass either fraction or per_class, got fraction={fraction} and per_class={per_class}")
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}: it must be above 0 and at most 1 (1 % is 0.01)")
    classes, target, counts = labels.unique(return_inverse=True, return_counts=True)
    if per_class is not None and check_count(per_class, "per_class") > counts.min():
        smallest = counts.argmin()
        raise ValueError(
            f"per_class is {per_class}, but class {classes[smallest].item()} has only {counts[smallest].item()} rows"
        )
    keep = torch.full_like(counts, per_class) if per_class else (counts * fraction).round().clamp(min=1).long()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[target[shuffled].argsort(stable=True)]  # rows of class 0 in random order, then class 1, ...
    place = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)  # place within the class
    return by_class[place < keep.repeat_interleave(counts)].sort().values


__all__ = ["low_shot_indices"]
