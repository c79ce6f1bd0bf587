"""Random tubes: what both modes share, and what the default promises."""

import numpy as np
import pytest
import torch

from hf_jepa.masking.random_tube import OfficialRandomTubeMaskSampler, RandomTubeMaskSampler


@pytest.mark.parametrize("sampler_class", [RandomTubeMaskSampler, OfficialRandomTubeMaskSampler])
def test_context_and_target_are_whole_tubes_that_share_out_the_grid(sampler_class):
    masks = sampler_class((4, 4, 8), ratio=(0.75, 0.5))(torch.arange(8), step=0)
    assert [mask.shape for mask in masks.context_mask] == [(8, 32), (8, 64)]
    for context, target in zip(*masks, strict=True):
        assert context.dtype == torch.long and context.is_contiguous() and target.is_contiguous()
        assert torch.equal(torch.cat([context, target], dim=1).sort(dim=1).values, torch.arange(128).expand(8, -1))
        for mask in (context, target):
            assert (mask.diff(dim=1) > 0).all()
            by_frame = mask.view(8, 4, -1)
            assert torch.equal(by_frame % 32, by_frame[:, :1].expand_as(by_frame))
        assert len(context.unique(dim=0)) == 8, "clips differ"


def test_masks_of_a_clip_depend_on_seed_step_epoch_and_index_only():
    sampler = RandomTubeMaskSampler((4, 8, 8))
    index = torch.tensor([3, 9, 27])
    base = sampler(index, step=1, epoch=1).context_mask[0]
    np.random.seed(1)
    assert torch.equal(sampler(index[[2, 0]], step=1, epoch=1).context_mask[0], base[[2, 0]])
    for other in (
        sampler(index, step=2, epoch=1),
        sampler(index, step=1, epoch=2),
        sampler(index + 1, step=1, epoch=1),
        RandomTubeMaskSampler((4, 8, 8), seed=1)(index, step=1, epoch=1),
    ):
        assert (other.context_mask[0] != base).any(dim=1).all()


def test_no_place_is_preferred():
    context = RandomTubeMaskSampler((2, 5, 5), ratio=0.8)(torch.arange(20_000), step=0).context_mask[0]
    share = torch.bincount(context.flatten(), minlength=50) / 20_000
    torch.testing.assert_close(share, torch.full((50,), 0.2), atol=0.015, rtol=0)


def test_the_default_rounds_and_the_official_mode_cuts():
    assert RandomTubeMaskSampler((1, 2, 5))(torch.arange(1), step=0).context_mask[0].shape == (1, 1)
    with pytest.raises(ValueError, match=r"ratio 0.9 keeps 0 of 2 x 5 places as context: choose a ratio"):
        OfficialRandomTubeMaskSampler((1, 2, 5))


@pytest.mark.parametrize(("ratio", "message"), [(0.0, "keeps 196 of"), (1.0, "keeps 0 of"), ((), "ratio is empty")])
def test_ratios_that_empty_a_mask_are_refused(ratio, message):
    for sampler_class in (RandomTubeMaskSampler, OfficialRandomTubeMaskSampler):
        with pytest.raises(ValueError, match=message):
            sampler_class((8, 14, 14), ratio=ratio)
