"""BEiT block masks: the official draws exactly, and a sampler with exact numbers that depends on nothing else."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.masking.beit_blocks import BeitBlockMaskSampler, OfficialBeitBlockMaskSampler


GOLDEN = Path(__file__).parents[1] / "fixtures/golden/data2vec/block_mask"
CONFIG = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
BLOCKS = {"min_block_patches": CONFIG["min_per_block"], "max_block_patches": CONFIG["max_per_block"]}


@pytest.mark.parametrize("number", [75, 120])
def test_official_masks_index_for_index(number):
    golden = load_file(GOLDEN / "io.safetensors")[f"mask_{number}"].bool()
    sampler = OfficialBeitBlockMaskSampler(tuple(CONFIG["grid"]), num_mask_patches=number, **BLOCKS)
    random.seed(CONFIG["python_random_seed"])
    assert torch.equal(sampler(torch.arange(len(golden)), step=0), golden.flatten(1))


@pytest.mark.parametrize("number", [75, 120])
def test_official_masks_fall_short_as_recorded(number):
    expected = CONFIG["masked_count_statistics_1000_images_seed0"][f"num_mask_patches={number}"]
    sampler = OfficialBeitBlockMaskSampler(14, num_mask_patches=number, **BLOCKS)
    random.seed(0)
    counts = sampler(torch.arange(1000), step=0).sum(dim=1)
    assert counts.float().mean().item() == pytest.approx(expected["mean"], abs=1e-4)
    assert (counts.min(), counts.max()) == (expected["min"], expected["max"])


@pytest.mark.parametrize(("grid", "number"), [(14, 120), (14, 75), ((3, 20), 30), (5, 25), (4, 1)])
def test_every_image_has_exactly_the_number(grid, number):
    masks = BeitBlockMaskSampler(grid, num_mask_patches=number, min_block_patches=4)(torch.arange(300), step=0)
    assert masks.sum(dim=1).eq(number).all()


def test_a_mask_depends_on_seed_epoch_and_index_only():
    sampler, index = BeitBlockMaskSampler(14), torch.tensor([3, 900, 3, 41])
    masks = sampler(index, step=0)
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])
    for row in range(len(index)):
        assert torch.equal(sampler(index[row : row + 1], step=7), masks[row : row + 1])
    assert not torch.equal(sampler(index, step=0, epoch=1), masks)
    assert not torch.equal(BeitBlockMaskSampler(14, seed=1)(index, step=0), masks)


def test_blocks_look_like_the_official_ones():
    """As compact as the official masks, and spread over the grid as they are, up to the edges."""

    def neighbours(masks):  # share of horizontal neighbours of a masked patch that are masked
        grid = masks.view(-1, 14, 14)
        return (grid[:, :, 1:] & grid[:, :, :-1]).sum() / grid[:, :, :-1].sum()

    random.seed(0)
    official = OfficialBeitBlockMaskSampler(14, **BLOCKS)(torch.arange(600), step=0)
    ours = BeitBlockMaskSampler(14)(torch.arange(600), step=0)
    assert neighbours(ours) == pytest.approx(neighbours(official).item(), abs=0.03)
    share = ours.float().mean(dim=0).view(14, 14)
    torch.testing.assert_close(share, share.flip(0), rtol=0, atol=0.1)
    torch.testing.assert_close(share, share.flip(1), rtol=0, atol=0.1)
    assert (share - official.float().mean(dim=0).view(14, 14)).abs().max() < 0.15


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid_size": (2, 3, 4)}, "grid_size"),
        ({"num_mask_patches": 197}, "197"),
        ({"num_mask_patches": 0}, "num_mask_patches=0"),
        ({"min_block_patches": 20, "max_block_patches": 10}, "max_block_patches=10"),
        ({"min_aspect_ratio": 1.5}, "1.5"),
        ({"attempts": 0}, "attempts"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        BeitBlockMaskSampler(**({"grid_size": 14} | settings))


def test_the_search_ends_after_the_attempts():
    one, many = (BeitBlockMaskSampler(14, attempts=attempts)(torch.arange(50), step=0) for attempts in (1, 50))
    assert not torch.equal(one, many) and one.sum() == many.sum()
