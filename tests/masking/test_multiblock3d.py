"""The default masks of clips: what they promise for every batch, and what they look like on average."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_masks import all_masks, require_masks_of_their_own, rows_of, same

from hf_jepa.masking.block_mask import VJEPA21_IMAGE_MASKS, VJEPA_MASKS, BlockMask
from hf_jepa.masking.build import build_video_mask_sampler
from hf_jepa.masking.multiblock3d import MultiBlock3dMaskSampler
from hf_jepa.masking.multiblock3d_official import OfficialMultiBlock3dMaskSampler
from hf_jepa.masking.random_tube import OfficialRandomTubeMaskSampler
from hf_jepa.masking.video_statistics import _table, main, measure_video_masks


SHORT, LONG = VJEPA_MASKS
SETTINGS = {
    "default": ((8, 14, 14), VJEPA_MASKS),
    "long clip": ((32, 6, 8), VJEPA_MASKS),
    "image": ((1, 16, 16), VJEPA21_IMAGE_MASKS),
    "one frame, two masks": ((1, 12, 20), VJEPA_MASKS),
    "short blocks": ((8, 8, 8), [BlockMask(3, (0.2, 0.6), temporal_scale=(0.25, 0.75)), LONG]),
    "first frames": ((8, 8, 8), [replace(SHORT, max_temporal_keep=0.5)]),
    "few context tokens": ((8, 8, 8), [replace(SHORT, max_keep=50)]),
    "all others are target": ((8, 8, 8), [replace(SHORT, max_keep=50, full_complement=True)]),
    "all others are context": ((4, 8, 8), [replace(LONG, temporal_scale=(0.4, 1.0), pred_full_complement=True)]),
    "swapped": ((4, 8, 8), [replace(LONG, inv_block=True), SHORT]),
    "tiny": ((4, 4, 4), VJEPA_MASKS),
    "column": ((3, 40, 1), [SHORT]),
}


@pytest.fixture(scope="module")
def sampler():
    return MultiBlock3dMaskSampler((8, 14, 14))


def is_member(tokens, num_tokens):
    return torch.zeros(len(tokens), num_tokens, dtype=torch.bool).scatter_(1, tokens, True)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_batch_keeps_the_promises(name):
    grid, settings = SETTINGS[name]
    sampler = MultiBlock3dMaskSampler(grid, settings)
    num_tokens = math.prod(grid)
    for step in range(20):
        masks = sampler(torch.arange(step * 16, step * 16 + 16), step=step)
        lengths = [(c.shape[1], t.shape[1]) for c, t in zip(*masks, strict=True)]
        assert tuple(lengths) == sampler.lengths and len(lengths) == len(settings)
        for mask in all_masks(masks):
            assert mask.dtype == torch.long and mask.is_contiguous() and len(mask) == 16 and mask.shape[1] > 0
            assert (mask.diff(dim=1) > 0).all(), "sorted, without repetition"
            assert mask.min() >= 0 and mask.max() < num_tokens
        for context, target in zip(*masks, strict=True):
            assert not (is_member(context, num_tokens) & is_member(target, num_tokens)).any()


def test_options_do_what_they_are_named_for():
    masks = {name: MultiBlock3dMaskSampler(*SETTINGS[name])(torch.arange(64), step=0) for name in SETTINGS}
    assert masks["few context tokens"].context_mask[0].shape[1] == 48, "whole tubes of 8 tokens"
    first_frames = masks["first frames"]
    assert first_frames.context_mask[0].max() // 64 == 3, "of frames 0 to 7"
    late = is_member(first_frames.target_mask[0], 512)[:, 256:]
    assert late.float().mean() > 0.5
    for name in ("all others are target", "all others are context"):
        (context,), (target,) = masks[name]
        assert context.shape[1] + target.shape[1] == math.prod(SETTINGS[name][0]), name
    assert masks["all others are target"].context_mask[0].shape[1] == 48
    straight = MultiBlock3dMaskSampler((4, 8, 8), [LONG, SHORT])(torch.arange(64), step=0)
    swapped = masks["swapped"]
    assert torch.equal(swapped.context_mask[0], straight.target_mask[0])
    assert torch.equal(swapped.target_mask[0], straight.context_mask[0])
    assert torch.equal(swapped.context_mask[1], straight.context_mask[1])


def test_blocks_through_all_frames_leave_whole_tubes(sampler):
    for mask in all_masks(sampler(torch.arange(16), step=0)):
        by_frame = is_member(mask, 8 * 196).view(16, 8, 196)
        assert (by_frame == by_frame[:, :1]).all()


def test_short_blocks_start_at_any_frame_and_have_any_length():
    sampler = MultiBlock3dMaskSampler((8, 10, 10), [BlockMask(1, 0.3, temporal_scale=(0.25, 0.75), max_keep=1)])
    covered = sampler._blocks._covered(np.zeros(4000, dtype=int), np.arange(4000).astype(np.uint64) * 7919)
    by_frame = covered.reshape(4000, 8, 100).any(axis=2)
    lengths = by_frame.sum(axis=1)
    assert set(lengths) == {2, 3, 4, 5, 6}
    starts = by_frame[lengths == 4].argmax(axis=1)
    np.testing.assert_allclose(np.bincount(starts) / len(starts), 0.2, atol=0.06)
    areas = covered.reshape(4000, 8, 100).any(axis=1).sum(axis=1)
    assert areas.min() >= 27 and areas.max() <= 33


def test_masks_of_a_clip_do_not_depend_on_its_batch(sampler):
    require_masks_of_their_own(sampler)


@pytest.mark.parametrize("name", ["tiny", "short blocks"])
def test_clips_that_are_drawn_again_do_not_depend_on_their_batch_either(name):
    sampler = MultiBlock3dMaskSampler(*SETTINGS[name])
    whole = sampler(torch.arange(60), step=3)
    for i in range(60):
        assert same(sampler(torch.tensor([i]), step=3), rows_of(whole, slice(i, i + 1)))


def test_masks_repeat_and_leave_the_global_generators_alone(sampler):
    torch.manual_seed(0)
    np.random.seed(0)
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first = sampler(torch.arange(8), step=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()
    torch.manual_seed(99)
    assert same(first, MultiBlock3dMaskSampler((8, 14, 14))(torch.arange(8), step=1))


def test_seed_step_epoch_and_index_each_change_every_clip(sampler):
    index = torch.arange(8)
    base = sampler(index, step=1, epoch=1)
    others = {
        "step": sampler(index, step=2, epoch=1),
        "epoch": sampler(index, step=1, epoch=2),
        "index": sampler(index + 8, step=1, epoch=1),
        "seed": replace(sampler, seed=1)(index, step=1, epoch=1),
    }
    for name, other in others.items():
        for mask, changed in zip(all_masks(base), all_masks(other), strict=True):
            assert (mask != changed).any(dim=1).all(), name


def test_lengths_do_not_depend_on_the_seed(sampler):
    assert replace(sampler, seed=5).lengths == sampler.lengths


def test_clips_that_are_too_short_are_drawn_again_until_hardly_any_is_left(sampler):
    blocks = sampler._blocks
    key = (np.arange(8000, dtype=np.uint64) * np.uint64(104_729)).reshape(2, 4000)
    first = blocks._covered(np.repeat([0, 1], 4000), key.reshape(-1)).reshape(2, 4000, -1)
    for i, (context, target) in enumerate(sampler.lengths):
        shares = []
        for covered in (first[i], blocks._fitting(key)[i]):
            count = covered.sum(axis=1)
            shares.append(((count * 8 >= target) & ((196 - count) * 8 >= context)).mean())
        assert 0.87 < shares[0] < 0.95 and shares[1] > 0.999
    context, target = sampler._blocks.draw(key).__next__()
    under_blocks = np.take_along_axis(np.tile(blocks._fitting(key)[0], 8), target, axis=1)
    assert under_blocks.mean() > 0.9999


@pytest.mark.parametrize("settings", [VJEPA_MASKS, [BlockMask(4, 0.3, temporal_scale=(0.3, 0.8))]])
def test_no_frame_and_no_side_is_preferred(settings):
    measured = measure_video_masks(MultiBlock3dMaskSampler((8, 10, 10), settings), num_steps=100, batch_size=256)
    for pair in measured:
        for probability in (pair.context_probability, pair.target_probability):
            for axis in (0, 1, 2):
                by_place = probability.mean(dim=[other for other in (0, 1, 2) if other != axis])
                torch.testing.assert_close(by_place, by_place.flip(0), atol=0.012, rtol=0)
            if settings is VJEPA_MASKS:
                by_frame = probability.mean(dim=(1, 2))
                assert float(by_frame.max() - by_frame.min()) == 0, "whole tubes"
        assert float(pair.target_probability.min()) > 0.01
    assert float(measured[0].context_probability.min()) > 0.02


def test_the_measurement_sees_the_late_frame_bias_of_the_official_mode():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    measured = measure_video_masks(OfficialMultiBlock3dMaskSampler((8, 10, 10)), num_steps=20, batch_size=16)
    assert torch.equal(state, torch.random.get_rng_state())
    for pair in measured:
        for probability in (pair.context_probability, pair.target_probability):
            by_frame = probability.mean(dim=(1, 2))
            assert by_frame[0] > 2 * by_frame[-1]
    assert len(set(measured[0].context_lengths)) > 3


def test_the_table_shows_both_modes():
    table = _table((4, 6, 6), num_steps=4, batch_size=4)
    assert table.count("context by frame") == 4 and "official, 8 blocks" in table and "corrected, 2 blocks" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((8, 14),), r"grid_size must be \(frames, rows, columns\) in tokens, got \(8, 14\); an image is \(1, rows"),
        ((14,), r"grid_size .* got 14"),
        (((8, 0, 4),), r"grid_size .* got \(8, 0, 4\)"),
        (((8, 14.5, 14),), r"grid_size .* got \(8, 14.5, 14\)"),
        (((8, 14, 14), []), "masks is empty"),
        (
            ((8, 14, 14), [BlockMask(8, 1.0)]),
            r"leaves no context in 100% of all draws .* 14 x 14 .*: lower num_blocks",
        ),
        (((8, 14, 14), [BlockMask(8, 0.15, max_keep=7)]), r"max_keep=7 is less than a tube of 8 tokens.* at least 8"),
    ],
)
def test_settings_that_no_mask_can_satisfy_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiBlock3dMaskSampler(*arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"spatial_scale": 1.2}, r"spatial_scale must be a range \(low, high\) .* got \(1.2, 1.2\)"),
        ({"spatial_scale": (0.5, 0.2)}, r"spatial_scale .* got \(0.5, 0.2\)"),
        ({"temporal_scale": (0.0, 1.0)}, "temporal_scale"),
        ({"aspect_ratio": (1.0, 2.0, 3.0)}, "aspect_ratio"),
        ({"max_keep": 0}, "max_keep must be at least 1, or None"),
        ({"max_temporal_keep": 1.5}, r"max_temporal_keep must be in \(0, 1\], got 1.5"),
        ({"pred_full_complement": True, "full_complement": True}, "so full_complement has no effect"),
        ({"pred_full_complement": True, "max_keep": 40}, "so max_keep=40 has no effect"),
    ],
)
def test_masks_with_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BlockMask(**{"num_blocks": 8, "spatial_scale": 0.15} | settings)


def test_masks_must_be_masks():
    with pytest.raises(TypeError, match=r"masks must be BlockMasks, got \{'num_blocks': 8\}"):
        MultiBlock3dMaskSampler((8, 14, 14), [{"num_blocks": 8}])


def test_build_video_mask_sampler_chooses_by_name_and_refuses_the_rest():
    grid = (8, 14, 14)
    assert build_video_mask_sampler(grid_size=grid, seed=3) == MultiBlock3dMaskSampler(grid, seed=3)
    recipe = [{"num_blocks": 8, "spatial_scale": [0.15, 0.15]}, LONG]
    assert build_video_mask_sampler("official", grid_size=grid, masks=recipe) == OfficialMultiBlock3dMaskSampler(grid)
    names = {
        type(build_video_mask_sampler(mode, grid_size=grid, kind="random_tube", ratio=0.8)).__name__
        for mode in ("corrected", "official")
    }
    assert names == {"RandomTubeMaskSampler", "OfficialRandomTubeMaskSampler"}
    with pytest.raises(ValueError, match="unknown mask mode 'random'.*corrected"):
        build_video_mask_sampler("random", grid_size=grid)
    with pytest.raises(ValueError, match="unknown kind of masks 'tube'.*random_tube"):
        build_video_mask_sampler(grid_size=grid, kind="tube")
    with pytest.raises(TypeError, match="seed"):
        build_video_mask_sampler("official", grid_size=grid, seed=0)
    with pytest.raises(TypeError, match="num_block"):
        build_video_mask_sampler(grid_size=grid, masks=[{"num_block": 8, "spatial_scale": 0.15}])


def test_the_documented_distribution_is_what_the_command_prints(capsys):
    main([])
    printed = capsys.readouterr().out.split("\n\n")[1:]
    text = (Path(__file__).parents[2] / "docs/masking.md").read_text(encoding="utf-8")
    for section in printed:
        mode = section.split(",")[0]
        pair = "short-range" if ", 8 blocks" in section else "long-range"
        for kind in ("context", "target"):
            (row,) = re.findall(rf"\| {pair} {kind}, {mode} \| (.*) \|", text)
            assert f"{kind} by frame: 0{row.replace(' | ', ' 0')}\n" in section
            (row,) = re.findall(rf"\| {pair}: {kind} tokens \| (.*) \|", text)
            assert row.split(" | ")[mode == "corrected"].removeprefix("mean ") in section
    assert len(printed) == 4


def test_equal_settings_of_two_pairs_give_different_masks():
    first, second = MultiBlock3dMaskSampler((4, 8, 8), [SHORT, SHORT])(torch.arange(8), step=0).target_mask
    assert first.shape == second.shape and (first != second).any(dim=1).all()


def test_measuring_restores_the_global_generators_and_reads_its_own_seed():
    sampler = OfficialRandomTubeMaskSampler((1, 4, 4), ratio=0.5)
    torch.manual_seed(3)
    np.random.seed(3)
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (measure_video_masks(sampler, 2, 4, global_seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(first.context_probability, again.context_probability)
    assert not torch.equal(first.context_probability, other.context_probability)
