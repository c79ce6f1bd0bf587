"""Batches that hold clips of several lengths."""

import pytest
import torch
from mask_checks import same

from hf_jepa.masking.block_mask import VJEPA21_IMAGE_MASKS, VJEPA_MASKS
from hf_jepa.masking.build import build_video_mask_sampler
from hf_jepa.masking.multi_sequence import MultiSequenceMaskSampler


SHORT, LONG, IMAGE = (4, 8, 8), (8, 8, 8), (1, 12, 12)


def several(mode, *grids):
    return MultiSequenceMaskSampler([build_video_mask_sampler(mode, grid_size=grid) for grid in grids])


def test_every_group_gets_the_masks_of_its_own_sampler():
    sampler = several("corrected", SHORT, LONG)
    groups = [torch.tensor([7, 1, 3]), torch.tensor([2, 5])]
    long, short = sampler(groups, grid_size=[LONG, SHORT], step=3, epoch=2)
    assert same(long, build_video_mask_sampler(grid_size=LONG)(groups[0], step=3, epoch=2))
    assert same(short, build_video_mask_sampler(grid_size=SHORT)(groups[1], step=3, epoch=2))
    (alone,) = sampler(groups[1:], grid_size=[SHORT], step=3, epoch=2)
    assert same(alone, short), "masks do not depend on the other groups"


def test_images_may_have_masks_of_their_own():
    sampler = MultiSequenceMaskSampler(
        [
            build_video_mask_sampler(grid_size=IMAGE, masks=VJEPA21_IMAGE_MASKS),
            build_video_mask_sampler(grid_size=SHORT, masks=VJEPA_MASKS),
        ]
    )
    image, clip = sampler([torch.arange(3), torch.arange(2)], grid_size=[list(IMAGE), list(SHORT)], step=0)
    assert (len(image.context_mask), len(clip.context_mask)) == (1, 2)


def test_equal_samplers_collapse_and_keep_the_order_of_first_occurrence():
    assert several("official", LONG, SHORT, LONG, LONG).grid_sizes == [LONG, SHORT]


def test_official_groups_count_their_own_batches():
    sampler = several("official", SHORT, LONG)
    groups = [torch.arange(2), torch.arange(2)]
    torch.manual_seed(0)
    drawn = sampler(groups, grid_size=[SHORT, LONG], step=[4, 9])
    torch.manual_seed(0)
    short = build_video_mask_sampler("official", grid_size=SHORT)(groups[0], step=4)
    long = build_video_mask_sampler("official", grid_size=LONG)(groups[1], step=9)
    assert same(drawn[0], short) and same(drawn[1], long)
    torch.manual_seed(0)
    (alone,) = sampler(groups[1:], grid_size=[LONG], step=9)
    torch.manual_seed(0)
    assert same(alone, build_video_mask_sampler("official", grid_size=LONG)(groups[1], step=9)), (
        "absent groups draw no"
    )


def test_refusals_name_the_grid():
    one = torch.arange(2)
    sampler = several("corrected", SHORT)
    with pytest.raises(ValueError, match=r"the grid \(8, 8, 8\) has no sampler; samplers are for \[\(4, 8, 8\)\]"):
        sampler([one], grid_size=[LONG], step=0)
    with pytest.raises(ValueError, match=r"the grid \(4, 8, 8\) comes twice: put its clips into one group"):
        sampler([one, one], grid_size=[SHORT, SHORT], step=0)
    with pytest.raises(ValueError, match="2 groups of sample_index, 1 of grid_size and 1 of step"):
        sampler([one, one], grid_size=[SHORT], step=0)
    with pytest.raises(ValueError, match="1 groups of sample_index, 1 of grid_size and 2 of step"):
        sampler([one], grid_size=[SHORT], step=[0, 1])
    with pytest.raises(ValueError, match="samplers is empty"):
        MultiSequenceMaskSampler([])
    with pytest.raises(ValueError, match=r"two different samplers for the grid \(4, 8, 8\)"):
        MultiSequenceMaskSampler(
            [build_video_mask_sampler(mode, grid_size=SHORT) for mode in ("corrected", "official")]
        )
