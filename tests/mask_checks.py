"""What the tests of mask samplers share."""

import torch


def all_masks(masks):
    return [*masks.context_mask, *masks.target_mask]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(all_masks(first), all_masks(second), strict=True))


def rows_of(masks, rows):
    return type(masks)(*([mask[rows] for mask in group] for group in masks))


def is_member(tokens, num_tokens):
    """(B, K) token indices to bool (B, num_tokens)."""
    return torch.zeros(len(tokens), num_tokens, dtype=torch.bool).scatter_(1, tokens, True)


def check_independence_of_the_batch(sampler):
    """The masks of a sample are the same in any batch and place."""
    index = torch.tensor([3, 900, 14, 77, 5, 123_456_789, 8, 0])
    whole = sampler(index, step=7, epoch=2)
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    assert same(sampler(index[:4], step=7, epoch=2), rows_of(whole, slice(0, 4)))
    assert same(sampler(index[4:], step=7, epoch=2), rows_of(whole, slice(4, 8)))
    assert same(sampler(index[order], step=7, epoch=2), rows_of(whole, order))
    assert same(sampler(torch.tensor([14]), step=7, epoch=2), rows_of(whole, slice(2, 3)))


def check_single_samples(sampler, count):
    """So are those of each sample alone."""
    whole = sampler(torch.arange(count), step=3)
    for i in range(count):
        assert same(sampler(torch.tensor([i]), step=3), rows_of(whole, slice(i, i + 1)))
