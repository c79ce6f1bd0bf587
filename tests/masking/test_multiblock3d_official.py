"""The official modes of clips against stored outputs of the official code, index for index."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.masking.block_mask import VJEPA_MASKS, BlockMask
from hf_jepa.masking.build import build_video_mask_sampler
from hf_jepa.masking.multi_sequence import MultiSequenceMaskSampler
from hf_jepa.masking.multiblock3d_official import OfficialMultiBlock3dMaskSampler
from hf_jepa.masking.random_tube import OfficialRandomTubeMaskSampler


GOLDEN = Path(__file__).parents[1] / "fixtures/golden"


def load(case):
    folder = GOLDEN / case
    return json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")


def grid_of(config, num_frames):
    side = config["crop_size"] // config["patch_size"]
    return (num_frames // config["tubelet_size"], side, side)


def sampler_of(config, num_frames):
    return build_video_mask_sampler("official", grid_size=grid_of(config, num_frames), masks=config["masks"])


def require_equal(masks, golden, prefix):
    expected = {name: mask for name, mask in golden.items() if name.startswith(prefix)}
    found = {f"{prefix}mask_enc_{i}": mask for i, mask in enumerate(masks.context_mask)}
    found |= {f"{prefix}mask_pred_{i}": mask for i, mask in enumerate(masks.target_mask)}
    assert found.keys() == expected.keys()
    for name, mask in found.items():
        assert mask.dtype == torch.long and torch.equal(mask, expected[name]), name


@pytest.mark.parametrize("case", ["mask_multiblock3d", "mask_multiblock3d_options"])
def test_equals_the_official_collator_of_vjepa(case):
    config, golden = load(f"vjepa/{case}")
    sampler = sampler_of(config, config["num_frames"])
    torch.manual_seed(config["seed"])
    for step in range(config["iterations"]):
        require_equal(sampler(torch.arange(config["batch_size"]), step=step), golden, f"step{step}.")


def test_random_tubes_equal_the_official_collator():
    config, golden = load("vjepa/mask_random_tube")
    sampler = OfficialRandomTubeMaskSampler(
        grid_of(config, config["num_frames"]), ratio=[mask["ratio"] for mask in config["masks"]]
    )
    np.random.seed(config["seed"])
    for step in range(config["iterations"]):
        require_equal(sampler(torch.arange(config["batch_size"]), step=step), golden, f"step{step}.")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("case", ["mask_multiseq_multiblock3d", "mask_multiseq_options"])
def test_equals_the_official_collator_of_vjepa2(case, reverse):
    config, golden = load(f"vjepa2/{case}")
    sampler = MultiSequenceMaskSampler([sampler_of(config, frames) for frames in config["dataset_fpcs"]])
    lengths = [frames for frames in dict.fromkeys(config["dataset_fpcs"]) if frames in config["batch_fpcs"]]
    groups = [(grid_of(config, n), torch.arange(config["batch_fpcs"].count(n))) for n in lengths]
    torch.manual_seed(config["seed"])
    for step in range(config["iterations"]):
        grids, indices = zip(*(groups[::-1] if reverse else groups), strict=True)
        drawn = sampler(indices, grid_size=grids, step=[step] * len(groups) if reverse else step)
        for g, masks in enumerate(drawn[::-1] if reverse else drawn):
            require_equal(masks, golden, f"step{step}.group{g}.")


@pytest.mark.parametrize(
    ("case", "prefix"), [("vjepa/mask_multiblock3d", ""), ("vjepa2/mask_multiseq_multiblock3d", "group0.")]
)
def test_token_counts_equal_those_of_the_official_collator(case, prefix):
    config, _ = load(case)
    sampler = sampler_of(config, config.get("num_frames", 16))
    batch_size = config.get("stat_batch_size") or len(config["stat_batch_fpcs"])
    torch.manual_seed(0)
    counts = []
    for step in range(config["stat_iterations"]):
        masks = sampler(torch.arange(batch_size), step=step)
        counts.append([[mask.shape[1] for mask in group] for group in masks])
    counts = np.array(counts)  # (steps, context or target, pairs)
    for i in range(len(config["masks"])):
        for kind, name in enumerate(("enc_tokens", "pred_tokens")):
            expected = config["statistics"][f"{prefix}mask_{i}"][name]
            found = counts[:, kind, i]
            error = expected["std"] / math.sqrt(config["stat_iterations"])
            assert abs(found.mean() - expected["mean"]) <= 3 * error
            assert (found.min(), found.max()) == (expected["min"], expected["max"])  # the same stream of numbers


def one_by_one(mask, grid, size, batch_size):
    """Sets of target tokens, drawn with one call per number as the official code does, and how many were tried."""
    found, tried = [], 0
    while len(found) < batch_size:
        tried += 1
        free = torch.ones(grid)
        for _ in range(mask.num_blocks):
            top = int(torch.randint(0, grid[1] - size[1] + 1, (1,)))
            left = int(torch.randint(0, grid[2] - size[2] + 1, (1,)))
            start = int(torch.randint(0, grid[0] - size[0] + 1, (1,)))
            free[start : start + size[0], top : top + size[1], left : left + size[2]] = 0
        if free.any():
            found.append((free.flatten() == 0).nonzero().squeeze(1))
    return found, tried


def test_clips_without_context_are_drawn_again_in_their_turn():
    mask, grid = BlockMask(10, 0.7, temporal_scale=(0.7, 0.7)), (3, 5, 4)
    sampler = OfficialMultiBlock3dMaskSampler(grid, [mask])
    redrawn = 0
    for step in range(5):
        (size,) = sampler.block_sizes(step)
        torch.manual_seed(step)
        expected, tried = one_by_one(mask, grid, size, 32)
        redrawn += tried - 32
        state = torch.random.get_rng_state()
        torch.manual_seed(step)
        target = sampler(torch.arange(32), step=step).target_mask[0]
        assert torch.equal(torch.random.get_rng_state(), state), "as many numbers are drawn"
        assert torch.equal(target, torch.stack([tokens[: target.shape[1]] for tokens in expected]))
    assert redrawn > 20


def test_an_image_is_a_clip_of_one_frame():
    sampler = OfficialMultiBlock3dMaskSampler((1, 16, 16), VJEPA_MASKS)
    masks = sampler(torch.arange(3), step=0)
    assert all(mask.shape[0] == 3 and 0 < mask.shape[1] < 256 for group in masks for mask in group)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ((8, 3, 3), [BlockMask(1, 0.1)]),
            r"BlockMask\(num_blocks=1.* draws blocks of .*cover nothing: raise spatial",
        ),
        (
            ((8, 14, 14), [BlockMask(1, 1.0)]),
            r"blocks of \(8, 14, 14\) tokens .*leave no context: lower spatial_scale",
        ),
        (((8, 14, 14), [BlockMask(1, (0.5, 1.0))]), "leave no context"),
    ],
)
def test_settings_on_which_the_official_code_fails_or_hangs_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OfficialMultiBlock3dMaskSampler(*settings)


def test_blocks_that_never_reach_all_frames_may_fill_them():
    sampler = OfficialMultiBlock3dMaskSampler((8, 6, 6), [BlockMask(1, 1.0, temporal_scale=(0.2, 1.0))])
    assert sampler(torch.arange(4), step=0).context_mask[0].shape[1] >= 36


def test_a_search_without_end_is_given_up():
    sampler = OfficialMultiBlock3dMaskSampler((1, 3, 3), [BlockMask(200, 0.7)])
    with pytest.raises(RuntimeError, match=r"left no context in 1000 draws: lower num_blocks=200"):
        sampler(torch.arange(2), step=0)
