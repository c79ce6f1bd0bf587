"""Masks of a batch, compared with those of parts of it."""

import torch

from hf_jepa.masking.masks import Masks


def all_masks(masks: Masks) -> list[torch.Tensor]:
    return [*masks.context_mask, *masks.target_mask]


def same(first: Masks, second: Masks) -> bool:
    return all(torch.equal(a, b) for a, b in zip(all_masks(first), all_masks(second), strict=True))


def rows_of(masks: Masks, rows: slice | torch.Tensor) -> Masks:
    return Masks(*([mask[rows] for mask in group] for group in masks))


def require_masks_of_their_own(sampler) -> None:
    """Masks of a sample do not depend on its batch: neither on its place there nor on the others."""
    index = torch.tensor([3, 900, 14, 77, 5, 123_456_789, 8, 0])
    whole = sampler(index, step=7, epoch=2)
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    assert same(sampler(index[:4], step=7, epoch=2), rows_of(whole, slice(0, 4)))
    assert same(sampler(index[4:], step=7, epoch=2), rows_of(whole, slice(4, 8)))
    assert same(sampler(index[order], step=7, epoch=2), rows_of(whole, order))
    assert same(sampler(torch.tensor([14]), step=7, epoch=2), rows_of(whole, slice(2, 3)))
