"""The default, corrected mode: what it promises for every batch, and what its masks look like on average."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_masks import all_masks, require_masks_of_their_own, rows_of, same

from hf_jepa.masking.build import build_mask_sampler
from hf_jepa.masking.multiblock import MultiBlockMaskSampler, _at_level
from hf_jepa.masking.statistics import measure_masks


SETTINGS = {
    "default": {"grid_size": 14},
    "two contexts": {"grid_size": 14, "context_scale": (0.4, 0.8), "num_context_masks": 2, "num_target_masks": 2},
    "overlap": {"grid_size": 14, "allow_overlap": True},
    "one target": {"grid_size": 14, "num_target_masks": 1},
    "small": {"grid_size": 6, "min_keep": 4},
    "wide": {"grid_size": (8, 20)},
    "tall": {"grid_size": (28, 7)},
    "one row": {"grid_size": (1, 64), "min_keep": 5},
    "crowded": {"grid_size": 8, "target_scale": (0.35, 0.45), "num_target_masks": 6, "context_length": 20},
}


@pytest.fixture(scope="module")
def sampler():
    return MultiBlockMaskSampler(14)


def distinct_places(sampler):
    """Different places that the targets of an image take, for every image of many steps."""
    found = []
    for step in range(50):
        masks = sampler(torch.arange(16), step=step)
        assert masks.context_mask[0].shape == (16, sampler.context_length)
        first_token = torch.stack([mask[:, 0] for mask in masks.target_mask], dim=1)  # (B, M)
        found += [len(row.unique()) for row in first_token]
    return found


def is_member(tokens, num_tokens):
    return torch.zeros(len(tokens), num_tokens, dtype=torch.bool).scatter_(1, tokens, True)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_batch_keeps_the_promises(name):
    sampler = MultiBlockMaskSampler(**SETTINGS[name])
    num_tokens = sampler.grid_size[0] * sampler.grid_size[1]
    for step in range(40):
        masks = sampler(torch.arange(step * 32, step * 32 + 32), step=step)
        target_size, _ = sampler.block_sizes(step)
        assert [m.shape for m in masks.context_mask] == [(32, sampler.context_length)] * sampler.num_context_masks
        assert [m.shape for m in masks.target_mask] == [
            (32, target_size[0] * target_size[1])
        ] * sampler.num_target_masks
        for mask in all_masks(masks):
            assert mask.dtype == torch.long and mask.is_contiguous()
            assert (mask.diff(dim=1) > 0).all(), "sorted, without repetition"
            assert mask.min() >= 0 and mask.max() < num_tokens
            assert mask.shape[1] > sampler.min_keep
        targets = torch.stack([is_member(m, num_tokens) for m in masks.target_mask]).any(dim=0)
        leaks = [bool((is_member(m, num_tokens) & targets).any()) for m in masks.context_mask]
        assert leaks == [sampler.allow_overlap] * sampler.num_context_masks


def test_targets_are_full_rectangles_of_the_size_of_the_step(sampler):
    for step in range(10):
        (height, width), _ = sampler.block_sizes(step)
        for mask in sampler(torch.arange(16), step=step).target_mask:
            row, column = mask // 14, mask % 14
            assert ((row.amax(1) - row.amin(1) + 1) == height).all()
            assert ((column.amax(1) - column.amin(1) + 1) == width).all()


def test_masks_of_an_image_do_not_depend_on_its_batch(sampler):
    require_masks_of_their_own(sampler)


def test_crowded_images_do_not_depend_on_their_batch_either():
    sampler = MultiBlockMaskSampler(**SETTINGS["crowded"])  # nearly every image is placed again or stacked
    whole = sampler(torch.arange(40), step=3)
    for i in range(40):
        assert same(sampler(torch.tensor([i]), step=3), rows_of(whole, slice(i, i + 1)))


def test_masks_repeat_and_leave_the_global_generator_alone(sampler):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = sampler(torch.arange(8), step=1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(99)
    assert same(first, MultiBlockMaskSampler(14)(torch.arange(8), step=1))


def test_seed_epoch_and_index_each_change_the_positions(sampler):
    index, step = torch.arange(8), 1
    base = sampler(index, step=step)
    assert not same(base, sampler(index, step=step, epoch=1))
    assert not same(base, sampler(index + 8, step=step))
    other_seed = replace(sampler, seed=1)
    same_size_step = next(s for s in range(1000) if other_seed.block_sizes(s) == sampler.block_sizes(step))
    assert not same(base, other_seed(index, step=same_size_step))
    contexts = base.context_mask[0]
    assert len(contexts.unique(dim=0)) == 8, "images of a batch differ"


def test_step_and_seed_change_the_block_sizes(sampler):
    sizes = [sampler.block_sizes(step) for step in range(50)]
    assert len(set(sizes)) > 8
    other_seed = replace(sampler, seed=1)
    assert sizes != [other_seed.block_sizes(step) for step in range(50)]


@pytest.mark.parametrize("grid", [(14, 14), (28, 28), (8, 20), (40, 6)])
def test_block_sizes_follow_scale_and_aspect_up_to_whole_tokens(grid):
    sampler = MultiBlockMaskSampler(grid)
    rows, columns = grid
    targets, contexts = zip(*(sampler.block_sizes(step) for step in range(500)), strict=True)
    for sizes, scale in ((targets, sampler.target_scale), (contexts, sampler.context_scale)):
        areas = torch.tensor([height * width for height, width in sizes], dtype=torch.float64)
        slack = torch.tensor([max(height, width) / 2 for height, width in sizes])
        assert (areas >= scale[0] * rows * columns - slack).all()
        assert (areas <= scale[1] * rows * columns + slack).all()
        assert float(areas.mean()) == pytest.approx(sum(scale) / 2 * rows * columns, rel=0.03)


def test_scale_and_aspect_are_drawn_independently():
    sampler = MultiBlockMaskSampler(64)
    sizes = torch.tensor([sampler.block_sizes(step)[0] for step in range(2000)], dtype=torch.float64)
    area, aspect = sizes.prod(dim=1), sizes[:, 0] / sizes[:, 1]
    correlation = torch.corrcoef(torch.stack([area, aspect]))[0, 1]
    assert abs(float(correlation)) < 0.08
    # half a token of height, once itself and once through the width, and half a token of width
    slack = 1 / sizes[:, 0] + 0.5 / sizes[:, 1]
    assert (aspect >= 0.75 * (1 - slack)).all() and (aspect <= 1.5 * (1 + slack)).all()
    assert aspect.min() < 0.8 and aspect.max() > 1.4


def test_every_token_is_context_and_target_and_no_side_is_preferred(sampler):
    measured = measure_masks(sampler, num_steps=400, batch_size=32)
    for probability, floor in ((measured.context_probability, 0.05), (measured.target_probability, 0.002)):
        assert float(probability.min()) > floor, "also in the last row and column"
        for flipped in (probability.flip(0), probability.flip(1)):
            torch.testing.assert_close(probability, flipped, atol=0.03, rtol=0)
        by_row = probability.mean(dim=1)
        torch.testing.assert_close(by_row, by_row.flip(0), atol=0.012, rtol=0)


def test_blocks_may_fill_the_grid():
    sampler = MultiBlockMaskSampler((4, 12), target_scale=(0.5, 0.5), target_aspect_ratio=(1.0, 1.0), min_keep=5)
    target_size, context_size = zip(*(sampler.block_sizes(step) for step in range(100)), strict=True)
    assert set(target_size) == {(4, 6)}
    assert (4, 12) in context_size
    sampler(torch.arange(8), step=0)


def test_default_context_length_is_kept_by_nearly_all_first_placements(sampler):
    kept, drawn = 0, 0
    for step in range(200):
        target_size, context_size = sampler.block_sizes(step)
        key = torch.arange(step * 16, step * 16 + 16).numpy().astype("uint64")
        target_start, context_start = sampler._draw_starts(key, 0, target_size, context_size)
        left = sampler._available(target_start, context_start, target_size, context_size).sum(axis=-1)
        kept, drawn = kept + int((left >= sampler.context_length).sum()), drawn + left.size
    assert 0.92 < kept / drawn < 0.98
    assert replace(sampler, seed=5, context_length=None).context_length == sampler.context_length


def test_the_default_context_length_does_not_exceed_the_guarantee():
    sampler = MultiBlockMaskSampler(**SETTINGS["one target"])
    guaranteed = sampler._guaranteed_context(*sampler._all_block_sizes())
    assert sampler._calibrated_context_length() > guaranteed == sampler.context_length


def test_images_are_placed_anew_before_their_targets_are_stacked():
    places = distinct_places(MultiBlockMaskSampler(**SETTINGS["crowded"]))
    assert sum(places) / len(places) > 2.1  # 1.92 where all of the images that are short are stacked


def test_two_contexts_on_one_place_keep_different_tokens():
    sampler = MultiBlockMaskSampler(
        14, context_scale=(1.0, 1.0), num_context_masks=2, allow_overlap=True, context_length=60
    )
    first, second = sampler(torch.arange(4), step=0).context_mask
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_scales_reach_both_ends_of_their_range():
    assert _at_level((0.25, 0.75), np.array([0, 128, 256])).tolist() == [0.25, 0.5, 0.75]


def test_a_block_needs_one_token_more_than_min_keep():
    settings = {"grid_size": 12, "target_scale": (1 / 6, 1 / 6), "target_aspect_ratio": (2 / 3, 2 / 3)}
    assert MultiBlockMaskSampler(**settings, min_keep=23).block_sizes(0)[0] == (4, 6)
    with pytest.raises(ValueError, match="a target block of 4 x 6 = 24 tokens cannot keep more than min_keep=24"):
        MultiBlockMaskSampler(**settings, min_keep=24)


def test_the_guarantee_is_reached_by_stacking_targets_and_not_exceeded():
    settings = SETTINGS["crowded"] | {"context_length": None}
    relaxed = MultiBlockMaskSampler(**settings)
    guaranteed = relaxed._guaranteed_context(*relaxed._all_block_sizes())
    sampler = MultiBlockMaskSampler(**settings | {"context_length": guaranteed})
    places = distinct_places(sampler)
    assert min(places) == 1, "all on top of each other"
    assert sum(places) < 0.75 * sum(distinct_places(relaxed))
    with pytest.raises(ValueError, match=f"guarantee {guaranteed}"):
        MultiBlockMaskSampler(**settings | {"context_length": guaranteed + 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid_size": 6}, r"target block of .* = 6 tokens .*min_keep=10 on a 6 x 6 grid: lower min_keep"),
        ({"grid_size": 14, "context_scale": (0.15, 0.8)}, r"contexts of 11 tokens.*guarantee 0.*Raise context_scale"),
        ({"grid_size": 14, "context_length": 10}, r"context_length=10 with min_keep=10"),
        ({"grid_size": 14, "context_length": 196}, r"contexts of 196 tokens"),
        ({"grid_size": 14, "target_scale": (0.9, 1.0)}, r"lower target_scale"),
        ({"grid_size": 0}, r"grid_size .* got 0"),
        ({"grid_size": (14, 14, 2)}, r"grid_size .* got \(14, 14, 2\)"),
        ({"grid_size": 14, "target_scale": (0.3, 0.2)}, r"target_scale .*low.*high.* got \(0.3, 0.2\)"),
        ({"grid_size": 14, "target_scale": 0.2}, r"target_scale must be a range \(low, high\) .* got 0.2"),
        ({"grid_size": 14, "context_scale": (0.5, 1.2)}, r"context_scale .* got \(0.5, 1.2\)"),
        ({"grid_size": 14, "target_aspect_ratio": (0.0, 1.0)}, r"target_aspect_ratio"),
        ({"grid_size": 14, "num_target_masks": 0}, r"num_target_masks must be at least 1, got 0"),
        ({"grid_size": 14, "num_context_masks": 0}, r"num_context_masks must be at least 1, got 0"),
        ({"grid_size": 14, "min_keep": -1}, r"min_keep must be at least 0, got -1"),
    ],
)
def test_settings_that_no_mask_can_satisfy_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MultiBlockMaskSampler(**settings)


def test_build_mask_sampler_chooses_by_name_and_refuses_the_rest():
    assert build_mask_sampler(grid_size=np.int64(14), seed=3) == MultiBlockMaskSampler(14, seed=3)
    assert type(build_mask_sampler("official", grid_size=14)).__name__ == "OfficialMultiBlockMaskSampler"
    with pytest.raises(ValueError, match="unknown mask mode 'random'.*corrected"):
        build_mask_sampler("random", grid_size=14)
    with pytest.raises(TypeError, match="context_length"):
        build_mask_sampler("official", grid_size=14, context_length=60)


# --- buckets of lengths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bucket"), [("default", 8), ("two contexts", 4), ("overlap", 16), ("wide", 7)])
def test_lengths_are_multiples_of_the_bucket(name, bucket):
    sampler = MultiBlockMaskSampler(**SETTINGS[name], length_bucket=bucket)
    seen = set()
    for step in range(120):
        masks = sampler(torch.arange(4), step=step)
        seen.add(masks.target_mask[0].shape[1])
        height, width = sampler.block_sizes(step)[0]
        assert {m.shape for m in masks.target_mask} == {(4, height * width // bucket * bucket)}
        assert {m.shape for m in masks.context_mask} == {(4, sampler.context_length)}
        if not sampler.allow_overlap:
            hidden = torch.cat(masks.target_mask, dim=1)
            assert not (torch.cat(masks.context_mask, dim=1)[:, :, None] == hidden[:, None]).any()
    assert sampler.context_length % bucket == 0 and seen <= set(sampler.target_lengths)


def test_a_cut_target_is_any_part_of_its_block_with_the_same_probability():
    whole, cut = (MultiBlockMaskSampler(14, context_length=64, length_bucket=bucket) for bucket in (1, 16))
    kept: dict[int, list[torch.Tensor]] = {}
    pairs: dict[int, list[torch.Tensor]] = {}
    for step in range(60):
        index = torch.arange(step * 64, step * 64 + 64)
        blocks, targets = whole(index, step=step), cut(index, step=step)
        assert torch.equal(blocks.context_mask[0], targets.context_mask[0])
        for block, target in zip(blocks.target_mask, targets.target_mask, strict=True):
            inside = (block[:, :, None] == target[:, None]).any(dim=-1).double()  # (B, K): which places are left
            assert (inside.sum(dim=1) == target.shape[1]).all() and (target.diff(dim=1) > 0).all()
            kept.setdefault(block.shape[1], []).append(inside)
            pairs.setdefault(block.shape[1], []).append(inside[:, 1:] * inside[:, :-1])
    for area, found in kept.items():
        places, together = torch.cat(found), torch.cat(pairs[area])
        length = area // 16 * 16
        share, both = length / area, length * (length - 1) / (area * (area - 1))
        for measured, expected in ((places, share), (together, both)):  # also of neighbours: no runs, no gaps
            error = (expected * (1 - expected) / len(measured)) ** 0.5
            assert (measured.mean(dim=0) - expected).abs().max() <= 4.5 * error + 1e-12


def test_cuts_of_targets_depend_on_the_image_and_the_block():
    sampler = MultiBlockMaskSampler(14, length_bucket=16)
    masks = sampler(torch.tensor([5, 17, 3]), step=4)
    assert same(rows_of(masks, [1]), sampler(torch.tensor([17]), step=4))
    offsets = [row - row[0] for mask in masks.target_mask for row in mask]
    assert len({tuple(row.tolist()) for row in offsets}) == len(offsets)


def test_buckets_that_leave_too_little_are_refused():
    with pytest.raises(ValueError, match="length_bucket=16 leaves 0 of 6 target tokens"):
        MultiBlockMaskSampler(6, min_keep=4, length_bucket=16)
    with pytest.raises(ValueError, match="context_length=50 is no multiple of length_bucket=8"):
        MultiBlockMaskSampler(14, context_length=50, length_bucket=8)
    with pytest.raises(ValueError, match="length_bucket must be at least 1, got 0"):
        MultiBlockMaskSampler(14, length_bucket=0)
    with pytest.raises(TypeError, match="length_bucket"):
        build_mask_sampler("official", grid_size=14, length_bucket=8)
