"""Masks of spans for speech and text."""

import pytest
import torch

from hf_jepa.masking.spans import SpanMaskSampler


def runs(mask: torch.Tensor) -> list[int]:
    """Lengths of the runs of masked places."""
    text = "".join("#" if place else " " for place in mask.tolist())
    return [len(run) for run in text.split()]


@pytest.mark.parametrize(("prob", "length", "expected"), [(0.65, 10, 0.48), (0.35, 4, 0.30)])
def test_share_of_masked_places(prob, length, expected):
    """About `1 - exp(-prob)`, because spans overlap."""
    masks = SpanMaskSampler(prob, length)(torch.arange(400), torch.ones(400, 200, dtype=torch.bool), step=0)
    assert masks.float().mean().item() == pytest.approx(expected, abs=0.02)


def test_masks_are_made_of_whole_spans_up_to_both_ends():
    masks = SpanMaskSampler(0.35, 4)(torch.arange(400), torch.ones(400, 50, dtype=torch.bool), step=0)
    assert all(length >= 4 for mask in masks for length in runs(mask))
    assert masks[:, 0].any() and masks[:, -1].any()


def test_a_mask_depends_on_seed_epoch_index_and_its_own_places_only():
    sampler, index = SpanMaskSampler(0.65, 10), torch.tensor([3, 900, 3])
    maskable = torch.arange(80).expand(3, -1) < torch.tensor([[80], [55], [60]])
    masks = sampler(index, maskable, step=0)
    assert not masks[~maskable].any()
    assert not torch.equal(masks[0], masks[2])  # of different length
    for row, places in enumerate((80, 55, 60)):  # not of the batch, the padding or the step
        alone = sampler(index[row : row + 1], maskable[row : row + 1, :places], step=5)
        assert torch.equal(alone, masks[row : row + 1, :places])
    assert not torch.equal(sampler(index, maskable, step=0, epoch=1), masks)
    assert not torch.equal(SpanMaskSampler(0.65, 10, seed=1)(index, maskable, step=0), masks)


def test_special_tokens_are_never_masked():
    maskable = torch.ones(50, 30, dtype=torch.bool)
    maskable[:, [0, 12, 29]] = False
    masks = SpanMaskSampler(0.35, 4)(torch.arange(50), maskable, step=0)
    assert masks.any(dim=1).all() and not masks[~maskable].any()


@pytest.mark.parametrize("places", [1, 3, 4])
def test_short_sequences_are_masked_too(places):
    masks = SpanMaskSampler(0.1, 4)(torch.arange(20), torch.ones(20, places, dtype=torch.bool), step=0)
    assert masks.sum(dim=1).eq(4 if places == 4 else (places + 1) // 2).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SpanMaskSampler(0.0, 4), "prob"),
        (lambda: SpanMaskSampler(0.3, 0), "length"),
        (lambda: SpanMaskSampler(0.3, 4, min_spans=0), "min_spans"),
        (lambda: SpanMaskSampler(0.3, 4)(torch.arange(2), torch.ones(2, 9), step=0), "float32"),
        (lambda: SpanMaskSampler(0.3, 4)(torch.arange(2), torch.ones(3, 9, dtype=torch.bool), step=0), r"\(3, 9\)"),
        (lambda: SpanMaskSampler(0.3, 4)(torch.arange(1), torch.zeros(1, 9, dtype=torch.bool), step=0), "sequence 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_fractions_of_a_span_are_drawn():
    masks = SpanMaskSampler(0.25, 1)(torch.arange(2000), torch.ones(2000, 10, dtype=torch.bool), step=0)
    assert masks.sum(dim=1).unique().tolist() == [2, 3]
    assert masks.sum(dim=1).float().mean().item() == pytest.approx(2.5, abs=0.05)
