"""What a LeWorldModel promises beside its numbers: states, windows, checkpoints, and what it refuses."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForPreTraining

from hf_jepa import VARIANTS
from hf_jepa.core.world_model import WorldModel
from hf_jepa.models.lewm.configuration_lewm import LeWorldModelConfig
from hf_jepa.models.lewm.modeling_lewm import LeWorldModel, LeWorldModelForPreTraining
from hf_jepa.models.lewm.trajectory_processing_lewm import LeWorldModelVideoProcessor
from hf_jepa.planning import ActionSpace, CEMPlanner, LatentCost, MpcAgent, encode_goal


TINY = VARIANTS["lewm"].tiny


def made(kind=LeWorldModelForPreTraining, **fields):
    torch.manual_seed(0)
    return kind(LeWorldModelConfig(**(TINY | fields)))


def batch(frames: int = 4, size: int = 6):
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(size, frames, 3, 32, 32, generator=generator)
    return clips, torch.randn(size, frames - 1, 4, generator=generator)


def without_zeros(model):
    """Gates away from 0, where a new predictor ignores everything."""
    base = model.base_model
    for layer in base.predictor.layers:
        torch.nn.init.normal_(layer.modulation.weight, std=0.5)
    return model


def test_a_new_predictor_says_what_it_sees():
    model = made().eval()
    clips, actions = batch()
    base, embeddings = model.lewm, model.lewm.encode_frames(clips)
    seen = embeddings[:, :3] + base.predictor.position_embeddings
    assert_close(base.predictor(embeddings[:, :3], base.action_encoder(actions)), base.predictor.layernorm(seen))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_future_is_not_seen(attention):
    model = without_zeros(made(LeWorldModel).eval())
    model.set_attn_implementation(attention)
    clips, actions = batch()
    first = model(clips, actions).predictions
    clips[:, 2:], actions[:, 2:] = 0.5, -1.0
    second = model(clips, actions).predictions
    assert torch.equal(first[:, :2], second[:, :2]) and not torch.allclose(first[:, 2], second[:, 2])


def test_the_state_is_the_last_window():
    model = without_zeros(made(LeWorldModel).eval())
    clips, actions = batch(frames=6)
    state, short = model.encode(clips, actions), model.encode(clips[:, 3:], actions[:, 3:])
    assert isinstance(model, WorldModel) and state.latents.shape == (6, 3, 24) and state.actions.shape == (6, 2, 4)
    assert torch.equal(state.latents, short.latents) and torch.equal(state.actions, short.actions)
    assert model.encode(clips[:, :1]).actions is None
    plans = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    whole = model.unroll(state, plans)
    assert_close(whole[2:4, 1:], model.unroll(state[2:4], plans[2:4, 1:]), rtol=1e-5, atol=1e-5)
    assert_close(whole[:, :, :2], model.unroll(state, plans[:, :, :2]), rtol=1e-5, atol=1e-5)
    other = plans.clone()
    other[:, :, 2] += 1
    changed = model.unroll(state, other)
    assert torch.equal(changed[:, :, :2], whole[:, :, :2]) and (changed[:, :, 2] - whole[:, :, 2]).abs().max() > 1e-4


def test_plans_have_gradients():
    model = without_zeros(made(LeWorldModel).eval())
    clips, actions = batch(size=2)
    plans = torch.zeros(2, 3, 4, 4, requires_grad=True)
    model.unroll(model.encode(clips, actions), plans)[:, :, -1].square().sum().backward()
    assert (plans.grad.abs().amax(dim=(0, 1, 3)) > 0).all()


def test_an_agent_plans_with_it():
    model = made(LeWorldModel).eval()
    clips, _ = batch()
    goal = encode_goal(model, clips[:2, -1:])
    planner = CEMPlanner(ActionSpace(4, max_norm=1.0), horizon=3, num_samples=8, num_elites=2, num_iterations=2)
    agent = MpcAgent(
        planner,
        model,
        lambda state: LatentCost(model, state, goal, distance="mse"),
        generator=torch.Generator().manual_seed(0),
        context_frames=3,
    )
    found = [agent.act(clips[:2, number]) for number in range(4)]
    assert all(action.shape == (2, 4) and action.norm(dim=1).max() <= 1 for action in found)


def test_the_directions_come_from_the_step():
    model = made(pred_dropout=0.0).train()
    clips, actions = batch()
    terms = [model(clips, actions, step=step).regularization_loss for step in (3, 3, 4)]
    assert torch.equal(terms[0], terms[1]) and not torch.equal(terms[0], terms[2])
    with pytest.raises(ValueError, match="pass step="):
        model(clips, actions)


def test_both_projectors_learn_statistics_in_training_alone():
    model = made()
    clips, actions = batch()
    norms = [model.lewm.projector[1], model.lewm.prediction_projector[1]]
    model.eval()(clips, actions)
    assert all(norm.num_batches_tracked == 0 for norm in norms)
    model.train()(clips, actions, step=0)
    assert all(norm.num_batches_tracked == 1 and norm.running_mean.abs().max() > 0 for norm in norms)


def test_the_window_has_the_name_that_others_have():
    assert LeWorldModelConfig.from_dict({"num_context_frames": 5}).context_frames == 5  # as saved before
    assert "num_context_frames" not in LeWorldModelConfig().to_dict()


def test_a_checkpoint_comes_back(tmp_path):
    model = without_zeros(made())
    clips, actions = batch()
    model.train()(clips, actions, step=0)
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(again) is LeWorldModelForPreTraining
    state, found = model.state_dict(), again.state_dict()
    assert state.keys() == found.keys() and all(torch.equal(state[key], found[key]) for key in state)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is LeWorldModel and torch.equal(base.encode_frames(clips), model.lewm.encode_frames(clips))


def test_any_vision_model_will_do():
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]}
    model = made(backbone_config=backbone | {"layer_type": "basic"}, pooling="auto")
    clips, actions = batch()
    out = model(clips, actions, step=0)
    out.loss.backward()
    assert out.predictions.shape == (6, 3, 24) and model.config.latent_shape == (24,)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_gradient_checkpointing_changes_nothing():
    model = without_zeros(made(pred_dropout=0.0)).train()
    clips, actions = batch()
    found = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        model(clips, actions, step=0).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])


def test_the_processor_keeps_whole_frames():
    processor = LeWorldModelVideoProcessor.from_config(LeWorldModelConfig(**TINY))
    ramp = torch.linspace(0, 255, 64).round().to(torch.uint8)
    video = ramp.view(1, 1, 64, 1).expand(2, 64, 64, 3).numpy()  # dark to bright from left to right
    pixels = processor(video).pixel_values_videos
    assert pixels.shape == (1, 2, 3, 32, 32)
    red = pixels[0, 0, 0, 16] * 0.229 + 0.485
    assert red[0] < 0.02 and red[-1] > 0.98
    with pytest.raises(ValueError, match="the model wants 2 channels, image_mean has 3"):
        LeWorldModelVideoProcessor.from_config(
            LeWorldModelConfig(**TINY | {"backbone_config": TINY["backbone_config"] | {"num_channels": 2}})
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_source": "ema"}, "target_source='ema' is not one of shared"),
        ({"target_normalization": "layer_norm"}, "target_normalization='layer_norm' is not one of none"),
        ({"frames_per_clip": 5}, "frames_per_clip 5 must be from 2 to 4"),
        ({"action_dim": 5}, "action_dim 5 is not 2 primitive actions"),
        ({"state_dim": 7}, "state_dim=7"),
        ({"sigreg_weight": -0.1}, "sigreg_weight must be at least 0, got -0.1"),
        ({"pred_dropout": 1.0}, r"pred_dropout must be in \[0, 1\), got 1.0"),
        ({"pooling": "first"}, "pooling='first'"),
        ({"pred_head_dim": 0}, "pred_head_dim must be at least 1, got 0"),
        ({"hidden_size": "big"}, "hidden_size"),
    ],
)
def test_configs_that_make_no_sense(fields, message):
    with pytest.raises(Exception, match=message):
        LeWorldModelConfig(**(TINY | fields))
    with pytest.raises(ValueError, match="size 'huge' is not one of vit_tiny_patch14"):
        LeWorldModelConfig.from_size("huge")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, c, a: m(c, a[:, :2]), r"actions have shape \(6, 2, 4\), expected \(6, 3, 4\)"),
        (lambda m, c, a: m(c[:, :1], a[:, :0]), "1 frames: a sample has from 2 to 4"),
        (lambda m, c, a: m(c.repeat(1, 2, 1, 1, 1), a), "8 frames: a sample has from 2 to 4"),
        (lambda m, c, a: m.lewm.encode(c), "4 frames, but not what was done between them"),
        (lambda m, c, a: m.lewm.encode(c[:, :, :1], a), r"expected \(B, T, 3, H, W\)"),
        (lambda m, c, a: m.lewm.unroll(m.lewm.encode(c, a), a), r"are not \(6, S, H, 4\)"),
        (
            lambda m, c, a: m.lewm.unroll(m.lewm.encode(c, a), torch.zeros(5, 2, 3, 4)),
            r"actions of shape \(5, 2, 3, 4\) are not \(6, S, H, 4\)",
        ),
        (lambda m, c, a: m.lewm.predict(torch.zeros(1, 4, 24), torch.zeros(1, 4, 24)), "of at most 3 frames"),
    ],
)
def test_calls_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call(made().eval(), *batch())
