"""Batches of samples with pixels, in which some could not be read: what the collators of images and clips share."""

from collections.abc import Sequence
from typing import Any

import torch

from hf_jepa.data.decoding import UndecodableImage


def split_readable(
    samples: Sequence[dict[str, Any] | UndecodableImage], pixels: str, keep_unreadable: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """The samples that a batch is made of, and "path: reason" of every one that could not be read.

    Args:
        samples: of a batch.
        pixels: name of their pixels.
        keep_unreadable: put a row of zeros with the label -100 in the place of what could not be read.

    Raises:
        ValueError: some samples with labels and some without.

    Example:
        >>> bad = UndecodableImage(6, "b.jpg", "the file is empty", (3, 8, 8))
        >>> good = {"pixel_values": torch.zeros(3, 8, 8), "sample_index": 5}
        >>> found, skipped = split_readable([good, bad], "pixel_values")
        >>> len(found), skipped
        (1, ['b.jpg: the file is empty'])
    """
    skipped = [str(sample) for sample in samples if isinstance(sample, UndecodableImage)]
    found = []
    for sample in samples:
        if not isinstance(sample, UndecodableImage):
            found.append(sample)
        elif keep_unreadable:
            found.append({pixels: torch.zeros(sample.shape), "sample_index": sample.sample_index, "labels": -100})
    labelled = sum("labels" in sample for sample in found)
    if labelled not in (0, len(found)):
        raise ValueError(f"{labelled} of {len(found)} samples have labels: give them to all or to none")
    return found, skipped


def stack_samples(samples: Sequence[dict[str, Any]], pixels: str) -> dict[str, torch.Tensor]:
    """{pixels (B, ...), "sample_index" (B,), and "labels" (B,) if there are any}.

    Raises:
        ValueError: pixels of several shapes.
    """
    if len(shapes := {tuple(sample[pixels].shape) for sample in samples}) > 1:
        raise ValueError(f"{pixels} of a batch differ in shape: {sorted(shapes)}")
    batch = {pixels: torch.stack([sample[pixels] for sample in samples])}
    names = ["sample_index", "labels"] if "labels" in samples[0] else ["sample_index"]
    return batch | {name: torch.tensor([sample[name] for sample in samples]) for name in names}


def no_rows(sample: UndecodableImage, pixels: str) -> dict[str, torch.Tensor]:
    """The batch of which nothing could be read."""
    return {pixels: torch.empty(0, *sample.shape), "sample_index": torch.empty(0).long()}


__all__ = ["no_rows", "split_readable", "stack_samples"]
