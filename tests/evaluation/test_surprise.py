"""The surprise protocol is causal, asks for the next frames, and compares with the targets of pretraining."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_jepa import VJepa2Config, VJepa2ForPreTraining
from hf_jepa.evaluation.surprise import surprise_curves


class LastFrames(nn.Module):
    """Two pixels per token, two frames per token; predicts that the next frames are as the last ones were."""

    predictor = None

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(tubelet_size=2, target_normalization="none")
        self.asked = []

    def token_grid(self, clips):
        return clips.shape[1] // 2, clips.shape[3], clips.shape[4] // 2

    def encoder(self, clips):  # token: mean over frames and channels of its two pixels
        tokens = clips.mean(dim=2).unflatten(1, (-1, 2)).mean(dim=2).unflatten(-1, (-1, 2))
        return SimpleNamespace(last_hidden_state=tokens.flatten(1, 3))

    def forward(self, clips, target_mask, mask_index):
        area = self.token_grid(clips)[1] * self.token_grid(clips)[2]
        self.asked.append((clips.shape[1], target_mask[0].tolist(), mask_index))
        prediction = SimpleNamespace(last_hidden_state=self.encoder(clips).last_hidden_state[:, -area:])
        return SimpleNamespace(predictor_output=prediction)


def steps(levels):
    """Clips (1, T, 1, 2, 4) whose frames have these grey levels."""
    return torch.tensor(levels, dtype=torch.float32).view(1, -1, 1, 1, 1).expand(-1, -1, 1, 2, 4)


def test_errors_are_those_of_the_frames_that_were_predicted():
    model = LastFrames()
    curves = surprise_curves(model, steps([0, 0, 0, 0, 6, 6, 6, 6]), mask_index=3)
    assert curves.error.tolist() == [[0, 6, 0]] and curves.frame.tolist() == [2, 4, 6]
    # The tokens of the frames beyond the clip: a frame pair has 2 x 2 tokens.
    assert model.asked == [(2, [4, 5, 6, 7], 3), (4, [8, 9, 10, 11], 3), (6, [12, 13, 14, 15], 3)]


def test_where_something_unexpected_happens():
    clips = steps([0] * 6).clone()
    clips[0, 4:, 0, 1, 2:] = 8  # the last token of the last frames
    curves = surprise_curves(LastFrames(), clips)
    assert curves.tokens.tolist() == [[[[0, 0], [0, 0]], [[0, 0], [0, 8]]]]
    assert curves.error.tolist() == [[0, 2]]


def test_context_may_be_limited_and_batches_do_not_matter():
    model, clips = LastFrames(), torch.cat([steps(range(8)), steps([5] * 8), steps([1, 9] * 4)])
    curves = surprise_curves(model, clips, max_context=4, batch_size=2)
    assert [frames for frames, _, _ in model.asked] == [2, 4, 4] * 2
    assert curves.error.tolist() == [[2, 2, 2], [0, 0, 0], [0, 0, 0]]


def small_model():
    torch.manual_seed(0)
    config = VJepa2Config(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        crop_size=32,
        patch_size=16,
        frames_per_clip=8,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        initializer_range=0.2,
    )
    return VJepa2ForPreTraining(config).eval()


def test_nothing_of_later_frames_enters():
    model, clips = small_model().base_model, torch.randn(2, 8, 3, 32, 32)
    changed = clips.clone()
    changed[:, 6:] = torch.randn(2, 2, 3, 32, 32)
    one, other = (surprise_curves(model, x).error for x in (clips, changed))
    assert torch.equal(one[:, :2], other[:, :2]) and not torch.isclose(one[:, 2], other[:, 2]).any()


def test_a_clip_of_two_groups_costs_what_its_pretraining_loss_says():
    model, clip = small_model(), torch.randn(1, 4, 3, 32, 32)
    masks = [torch.arange(4).unsqueeze(0)], [torch.arange(4, 8).unsqueeze(0)]
    with torch.no_grad():
        model.context_encoder.load_state_dict(model.target_encoder.state_dict())
        loss = model(clip, context_mask=masks[0], target_mask=masks[1]).loss  # l1, the default
    assert surprise_curves(model.base_model, clip).error.item() == pytest.approx(loss.item(), rel=1e-5)


def test_refuses_models_without_predictor_and_unusable_clips():
    with pytest.raises(TypeError, match="Linear has no encoder and predictor"):
        surprise_curves(nn.Linear(2, 2), torch.zeros(1, 4, 1, 2, 4))
    for frames in (2, 5):
        with pytest.raises(ValueError, match="multiple of 2 and at least 4"):
            surprise_curves(LastFrames(), steps([0] * frames))
    with pytest.raises(ValueError, match="max_context is 3"):
        surprise_curves(LastFrames(), steps([0] * 8), max_context=3)
