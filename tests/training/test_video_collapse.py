"""What the collapse monitor measures on clips: pairs of masks of any lengths, groups that have nothing in common."""

import pytest
import torch

from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForPreTraining
from hf_jepa.registry import VARIANTS
from hf_jepa.training.collapse import collapse_signals


WIDTH = 32


@pytest.fixture
def model():
    return VJepa2ForPreTraining(VJepa2Config(**VARIANTS["vjepa2"].tiny))  # clips of 4 x 32 x 32, 2 x 4 x 4 tokens


def measure(model, targets: list[torch.Tensor], positions: list[list[torch.Tensor]]):
    """Signals of made-up targets (B, K_i, D), ordered (group, mask), at the positions of every group."""
    rows = [len(masks[0]) for masks in positions]
    contexts = [[torch.arange(5).expand(len(mask), -1) for mask in masks] for masks in positions]
    context = tuple(torch.randn(*mask.shape, WIDTH) for masks in contexts for mask in masks)
    output = JepaForPreTrainingOutput(predictions=tuple(targets), targets=tuple(targets), context=context)
    clips = [torch.randn(count, 4 * (g + 1), 3, 32, 32) for g, count in enumerate(rows)]
    inputs = {"pixel_values_videos": clips, "context_mask": contexts, "target_mask": positions}
    return collapse_signals(model, inputs, output)


def test_pairs_of_one_length_are_measured_as_the_masks_of_images(model, config_fields):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(2 * 4, 6, WIDTH, generator=generator)
    positions = [torch.arange(6).expand(4, -1), torch.arange(3, 9).expand(4, -1)]
    image_model = IJepaForPreTraining(IJepaConfig(**config_fields))
    inputs = {"context_mask": [torch.arange(5).expand(4, -1)], "target_mask": positions}
    inputs["pixel_values"] = torch.randn(4, 3, 48, 48)
    output = JepaForPreTrainingOutput(predictions=targets, targets=targets, context=torch.randn(4, 5, WIDTH))
    expected = collapse_signals(image_model, inputs, output)
    found = measure(model, list(targets.split(4)), [positions])
    for name in ("target_std", "image_share", "rankme", "prediction_target_cosine"):
        assert getattr(found, name) == getattr(expected, name), name


def test_tokens_of_all_pairs_count_whatever_their_lengths(model):
    generator = torch.Generator().manual_seed(0)
    varied, equal = torch.randn(8, 12, WIDTH, generator=generator), torch.randn(1, 4, WIDTH, generator=generator)
    positions = [torch.arange(12).expand(8, -1), torch.arange(12, 16).expand(8, -1)]
    signals = measure(model, [varied, equal.expand(8, -1, -1)], [positions])
    assert signals.target_std == pytest.approx((12 / 16) ** 0.5, rel=0.05)


def test_clips_of_different_lengths_are_not_compared(model):
    """The same indices are other places there; each group alone has one clip."""
    targets = [torch.randn(1, 6, WIDTH), torch.randn(1, 6, WIDTH)]
    positions = [torch.arange(6).expand(1, -1)]
    assert measure(model, targets, [positions, positions]) is None
    twice = measure(model, [target.expand(2, -1, -1) for target in targets], [[torch.arange(6).expand(2, -1)]] * 2)
    assert twice.target_std == 0.0 and twice.rankme == 1.0


def test_groups_that_differ_within_are_healthy_together(model):
    generator = torch.Generator().manual_seed(0)
    targets = [torch.randn(16, 8, WIDTH, generator=generator) for _ in range(2)]
    positions = [[torch.arange(8).expand(16, -1)]] * 2
    signals = measure(model, targets, positions)
    assert signals.target_std == pytest.approx(1.0, rel=0.05) and signals.rankme > 28
    assert signals.prediction_target_cosine == pytest.approx(1.0)


def test_of_very_many_tokens_some_positions_are_looked_at_in_all_clips(model, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(4, 32, WIDTH, generator=generator)
    positions = torch.stack([torch.randperm(32, generator=generator).sort().values for _ in range(4)])
    monkeypatch.setattr("hf_jepa.training.collapse.MAX_COMPARED", 16)  # 4 clips at 4 of the 32 positions
    found = measure(model, [targets], [[positions]])
    monkeypatch.undo()
    expected = measure(model, [targets[:, ::8]], [[torch.arange(4).expand(4, -1)]])
    assert (found.target_std, found.rankme) == (expected.target_std, expected.rankme)


@pytest.mark.parametrize("groups", [1, 2])
def test_cosine_of_encoders_that_are_equal_and_see_all_is_one(model, groups):
    everything = [torch.arange(32 * (g + 1)).expand(3, -1) for g in range(groups)]
    clips = [torch.randn(3, 4 * (g + 1), 3, 32, 32) for g in range(groups)]
    batch = {
        "pixel_values_videos": clips,
        "context_mask": [[mask, mask] for mask in everything],
        "target_mask": [[mask[:, :5], mask[:, 2:9]] for mask in everything],
    }
    if groups == 1:
        batch = {name: value[0] for name, value in batch.items()}
    assert collapse_signals(model, batch, model(**batch)).context_target_cosine == pytest.approx(1.0, abs=1e-6)


def test_the_encoders_are_compared_where_both_see(model):
    order = torch.stack([torch.randperm(32) for _ in range(11)])  # no more than 8 are compared
    clips = torch.randn(11, 4, 3, 32, 32)
    masks = {"context_mask": [order[:, :20], order[:, 12:20]], "target_mask": [order[:, 20:], order[:, 20:25]]}
    with torch.no_grad():
        for parameter in model.context_encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        seen = model.target_encoder(clips[:8]).last_hidden_state
        cosines = []
        for mask in masks["context_mask"]:
            said = model.context_encoder(clips[:8], context_mask=mask[:8]).last_hidden_state
            there = seen.gather(1, mask[:8, :, None].expand(-1, -1, seen.shape[-1]))
            cosines.append(torch.nn.functional.cosine_similarity(said, there, dim=-1).flatten())
    batch = {"pixel_values_videos": clips} | masks
    found = collapse_signals(model, batch, model(**batch)).context_target_cosine
    assert found == pytest.approx(torch.cat(cosines).mean().item(), abs=1e-3) and 0.1 < found < 0.9
