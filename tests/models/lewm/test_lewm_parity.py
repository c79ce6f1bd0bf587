"""A LeWorldModel computes what its description says: a second implementation, on weights under the official keys."""

import pytest
import tiny_lewm as official
import torch
from torch.testing import assert_close

from hf_jepa.losses.draws import unit_directions
from hf_jepa.models.lewm.configuration_lewm import LeWorldModelConfig
from hf_jepa.models.lewm.convert_lewm import KEYS, LAYOUT
from hf_jepa.models.lewm.modeling_lewm import LeWorldModelForPreTraining


CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 4, 3, 32, 32, generator=generator), torch.randn(6, 3, 6, generator=generator)


@pytest.fixture(scope="module")
def state():
    return official.official_state()


def made(state, **fields) -> LeWorldModelForPreTraining:
    config = LeWorldModelConfig(**(official.FIELDS | fields))
    model = LeWorldModelForPreTraining(config)
    model.load_state_dict(LAYOUT.convert(state, config))
    return model


def test_stages_in_evaluation(state, batch):
    clips, actions = batch
    model = made(state).eval()
    embeddings = official.embed_frames(state, clips, training=False)
    embedded = official.embed_actions(state, actions)
    assert_close(model.lewm.encode_frames(clips), embeddings, **CLOSE)
    assert_close(model.lewm.action_encoder(actions), embedded, **CLOSE)
    predictions = official.predict(state, embeddings[:, :-1], embedded, training=False)
    assert_close(model(clips, actions).predictions, predictions, **CLOSE)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_loss_and_all_gradients_of_a_step(state, batch, attention):
    clips, actions = batch
    own = {key: value.clone().requires_grad_(value.is_floating_point()) for key, value in state.items()}
    directions = unit_directions(0, 5, 24, 64, torch.device("cpu"))
    prediction, regularization = official.loss(own, clips, actions, directions)
    (prediction + regularization).backward()
    model = made(state).train()
    model.set_attn_implementation(attention)
    out = model(clips, actions, step=5)
    out.loss.backward()
    assert_close(out.prediction_loss, prediction, **CLOSE)
    assert_close(out.regularization_loss, regularization, **CLOSE)
    ours = {key: value.grad for key, value in model.lewm.named_parameters()}
    wanted = KEYS.to_ours({key: value.grad for key, value in own.items() if value.grad is not None})
    assert ours.keys() == wanted.keys()
    for key, gradient in ours.items():
        assert_close(gradient, wanted[key], rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_unroll_is_a_loop_of_windows(state, batch, frames):
    clips, actions = batch
    clips, done = clips[:2, :frames], None if frames == 1 else actions[:2, : frames - 1]
    plans = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(2))
    model = made(state).eval()
    found = model.lewm.unroll(model.lewm.encode(clips, done), plans)
    for sample in range(3):
        assert_close(found[:, sample], official.rollout(state, clips, done, plans[:, sample]), **CLOSE)


def test_targets_are_trained_too(state, batch):
    clips, actions = batch
    model = made(state, sigreg_weight=0.0).train()
    out = model(clips, actions)
    assert out.regularization_loss is None and not out.targets.requires_grad
    embeddings = out.context.detach().requires_grad_()
    predicted = out.predictions.detach()
    (wanted,) = torch.autograd.grad((predicted - embeddings[:, 1:]).pow(2).mean(), embeddings)
    (found,) = torch.autograd.grad(out.prediction_loss, out.context)
    assert_close(found[:, 3], wanted[:, 3], **CLOSE)  # the last frame is a target only
    assert found[:, 3].abs().max() > 1e-4
