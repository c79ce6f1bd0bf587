"""The official mode against stored outputs of the official code, index for index."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler
from hf_jepa.masking.random_ratio_official import OfficialRandomRatioMaskSampler
from hf_jepa.masking.statistics import measure_masks


GOLDEN = Path(__file__).parents[1] / "fixtures/golden/ijepa/mask_collator"
CONFIG = json.loads((GOLDEN / "config.json").read_text())
STATISTICS = json.loads((GOLDEN / "statistics.json").read_text())["grids"]


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "io.safetensors")


def sampler_of(case):
    return OfficialMultiBlockMaskSampler(
        case["input_size"] // case["patch_size"],
        context_scale=case["enc_mask_scale"],
        target_scale=case["pred_mask_scale"],
        target_aspect_ratio=case["aspect_ratio"],
        num_context_masks=case["nenc"],
        num_target_masks=case["npred"],
        min_keep=case["min_keep"],
        allow_overlap=case["allow_overlap"],
    )


@pytest.mark.parametrize("name", CONFIG["cases"])
def test_equals_the_official_collator(golden, name):
    case = CONFIG["cases"][name]
    sampler = sampler_of(case)
    torch.manual_seed(CONFIG["global_torch_seed"])
    for call in range(case["calls"]):
        masks = sampler(torch.arange(case["batch_size"]), step=case.get("start_counter", 0) + call)
        for kind, drawn, count in (
            ("enc", masks.context_mask, case["nenc"]),
            ("pred", masks.target_mask, case["npred"]),
        ):
            assert len(drawn) == count
            for i, mask in enumerate(drawn):
                assert torch.equal(mask, golden[f"{name}.call{call}.{kind}{i}"])


@pytest.mark.parametrize("name", CONFIG["cases"])
def test_block_sizes_equal_the_official_collator(golden, name):
    sampler = sampler_of(CONFIG["cases"][name])
    for seed, *sizes in golden[f"{name}.block_sizes_seed0to7"].tolist():
        assert sampler.block_sizes(seed) == (tuple(sizes[:2]), tuple(sizes[2:]))


def test_random_ratio_equals_the_official_collator(golden):
    torch.manual_seed(CONFIG["global_torch_seed"])
    masks = OfficialRandomRatioMaskSampler(196)(torch.arange(2), step=0)
    assert torch.equal(masks.context_mask[0], golden["random_ratio.enc0"])
    assert torch.equal(masks.target_mask[0], golden["random_ratio.pred0"])


def test_statistics_equal_the_official_collator():
    expected = STATISTICS["14x14"]
    measured = measure_masks(OfficialMultiBlockMaskSampler(14), expected["iterations"], expected["images_per_batch"])
    lengths = torch.tensor(measured.context_lengths, dtype=torch.float64)
    cut = expected["context_size_after_batch_min"]
    assert (int(lengths.min()), int(lengths.max())) == (cut["min"], cut["max"])
    assert float(lengths.mean()) == pytest.approx(cut["mean"], abs=1e-3)
    rows = measured.context_probability.mean(dim=1).tolist()
    assert rows == pytest.approx(expected["row_frequency_in_context_after"], abs=1e-4)
    assert measured.target_probability.mean(dim=1).tolist() == pytest.approx(
        expected["row_frequency_in_targets"], abs=1e-4
    )
    assert float(measured.any_target_probability.mean()) == pytest.approx(
        expected["union_of_targets_fraction"]["mean"], abs=1e-4
    )


def test_targets_that_cover_the_context_are_given_up_instead_of_searched_around():
    # a target block nearly as large as the grid: only overlapping contexts exist, and the draw must still end
    sampler = OfficialMultiBlockMaskSampler(6, target_scale=(0.9, 0.9), target_aspect_ratio=(1.0, 1.0), min_keep=12)
    masks = sampler(torch.arange(4), step=0)
    assert masks.context_mask[0].shape[1] > 12


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({"grid_size": 6}, r"target block of 2 x 3 = 6 .*min_keep=10 on a 6 x 6 grid"),
        ({"grid_size": 14, "context_scale": (0.01, 0.02)}, r"context block of 1 x 1 = 1 .*min_keep=10"),
        ({"grid_size": (1, 64)}, r"target block of 0 x"),
        ({"grid_size": 14, "target_scale": (0.01, 0.2)}, r"target block of .*min_keep=10"),
    ],
)
def test_settings_on_which_the_official_code_hangs_are_refused(settings, numbers):
    with pytest.raises(ValueError, match=numbers):
        OfficialMultiBlockMaskSampler(**settings)


@pytest.mark.parametrize("ratio", [(0.0, 0.5), (0.5, 1.0), (0.6, 0.4)])
def test_random_ratio_that_empties_a_mask_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        OfficialRandomRatioMaskSampler(10, ratio=ratio)
