"""Levels above a world model: what they predict, what counts, what is frozen, and what a checkpoint keeps."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForPreTraining

from hf_jepa import VARIANTS
from hf_jepa.core.world_model import WorldModel, WorldState
from hf_jepa.models.eb_jepa.configuration_eb_jepa import EbJepaConfig
from hf_jepa.models.eb_jepa.modeling_eb_jepa import EbJepaForPreTraining, EbJepaModel
from hf_jepa.models.h_jepa.configuration_h_jepa import HJepaConfig, HJepaLevel
from hf_jepa.models.h_jepa.modeling_h_jepa import HJepaForPreTraining, HJepaModel


WORLD = VARIANTS["h_jepa"].tiny["world_model_config"]
SMALL = {"macro_action_dim": 3, "macro_hidden_size": 8, "pred_hidden_size": 16}
LEARNED = SMALL | {"stride": 2, "state": "learned", "state_dim": 5, "regularizer": "vc"}


def made(*levels: dict, kind=HJepaForPreTraining, frames: int | None = None, seed: int = 0):
    torch.manual_seed(seed)
    given = [SMALL | level for level in levels]
    return kind(HJepaConfig(world_model_config=WORLD, levels=given, frames_per_clip=frames))


def batch(frames: int, size: int = 3, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    clips = torch.randn(size, frames, 2, 17, 17, generator=generator)
    return clips, torch.randn(size, frames - 1, 2, generator=generator)


# --- what is computed -----------------------------------------------------------------------------------------------


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def mlp(state, name, x, layers):
    for number in range(layers - 1):
        x = F.gelu(linear(state, f"{name}.{2 * number}", x))
    return linear(state, f"{name}.{2 * (layers - 1)}", x)


def gru_step(state, name, x, h, suffix=""):
    gates_x = F.linear(x, state[f"{name}.weight_ih{suffix}"], state[f"{name}.bias_ih{suffix}"]).chunk(3, -1)
    gates_h = F.linear(h, state[f"{name}.weight_hh{suffix}"], state[f"{name}.bias_hh{suffix}"]).chunk(3, -1)
    reset, keep = (torch.sigmoid(a + b) for a, b in zip(gates_x[:2], gates_h[:2], strict=True))
    return (1 - keep) * torch.tanh(gates_x[2] + reset * gates_h[2]) + keep * h


def restated(state, latents, actions, stride, macro, predictor, kind):
    """Both errors of the first level, frame by frame; latents (B, T, D) of all frames."""

    def macro_action(start):
        chunk = actions[:, start : start + stride]
        if macro == "mean":
            return sum(chunk.unbind(1)) / stride
        if macro == "mlp":
            return mlp(state, "macro_encoder.mlp", torch.cat(chunk.unbind(1), -1), 3)
        h = torch.zeros(len(chunk), SMALL["macro_hidden_size"])
        for action in chunk.unbind(1):
            h = gru_step(state, "macro_encoder.gru", action, h, "_l0")
        return linear(state, "macro_encoder.head", h)

    def step(s, u):
        if predictor == "gru":
            return gru_step(state, "predictor.gru", u, s)
        return s + mlp(state, "predictor.mlp", torch.cat([s, u], -1), 3)

    forced, alone, current = [], [], latents[:, 0]
    for start in range(0, actions.shape[1] - stride + 1, stride):
        target, u = latents[:, start + stride], macro_action(start)
        current = step(current, u)
        apart = [step(latents[:, start], u) - target, current - target]
        errors = [x.abs().mean() if kind == "l1" else x.pow(2).mean() for x in apart]
        forced.append(errors[0])
        alone.append(errors[1])
    return sum(forced) / len(forced), sum(alone) / len(alone)


@pytest.mark.parametrize("frames", [7, 8, 9])
@pytest.mark.parametrize(
    ("macro", "predictor", "kind"), [("mlp", "mlp", "mse"), ("gru", "gru", "l1"), ("mean", "mlp", "mse")]
)
def test_losses_and_gradients_are_those_of_a_loop_over_frames(frames, macro, predictor, kind):
    fields = {"stride": 3, "macro_encoder": macro, "predictor": predictor, "loss_type": kind, "coefficient": 2.0}
    model = made(fields | ({"macro_action_dim": 2} if macro == "mean" else {}), frames=frames)
    clips, actions = batch(frames)
    with torch.no_grad():
        latents = model.h_jepa.world_model.encode(clips).latents
    level = model.h_jepa.levels[0]
    state = {name: value.detach().clone().requires_grad_() for name, value in level.named_parameters()}
    forced, alone = restated(state, latents, actions, 3, macro, predictor, kind)
    (2.0 * (forced + alone)).backward()
    out = model(clips, actions)
    out.loss.backward()
    assert_close(out.teacher_forcing_loss, 2.0 * forced.detach(), rtol=1e-5, atol=1e-6)
    assert_close(out.rollout_loss, 2.0 * alone.detach(), rtol=1e-5, atol=1e-6)
    for name, parameter in level.named_parameters():
        assert_close(parameter.grad, state[name].grad, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)
    assert out.predictions.shape == (3, (frames - 1) // 3, 12) and not out.targets.requires_grad


def test_a_stride_of_one_is_the_flat_model():
    """Its macro-actions are the actions, and its states those of the world model at every frame."""
    model = made({"stride": 1, "macro_encoder": "mean", "macro_action_dim": 2, "predictor": "gru"}, frames=6)
    level, world = model.h_jepa.levels[0], model.h_jepa.world_model.eval()
    clips, actions = batch(6)
    assert torch.equal(level.macro_actions(actions), actions)
    level.predictor.gru.load_state_dict(world.predictor.rnn.state_dict())
    state = world.encode(clips[:, :1])
    plans = torch.randn(3, 2, 1, 2, generator=torch.Generator().manual_seed(2))
    flat = world.unroll(state, plans)
    found = world.encoder.layernorm(level.unroll(state, plans))  # the flat model normalises each step
    assert_close(found, flat, rtol=1e-5, atol=1e-5)


def test_the_tail_is_left_out():
    model = made({"stride": 3}, frames=7)
    clips, actions = batch(9)
    whole = model(clips[:, :7], actions[:, :6]).loss
    assert torch.equal(model(clips, actions).loss, whole)


def test_a_second_level_takes_steps_of_the_first():
    model = made({"stride": 2}, {"stride": 3, "macro_action_dim": 4}, frames=13)
    clips, actions = batch(15)
    out = model(clips, actions)
    first, second = model.h_jepa.levels
    assert model.config.strides == (2, 6) and out.predictions.shape == (3, 2, 12)
    macro = second.macro_actions(first.macro_actions(actions))
    assert macro.shape == (3, 2, 4)
    latents = model.h_jepa.encode_frames(clips)[:, ::6]
    assert_close(out.context, latents, rtol=1e-5, atol=1e-6)
    assert_close(out.predictions, second.predict(latents[:, :-1], macro), rtol=1e-5, atol=1e-5)
    out.loss.backward()
    alone = made({"stride": 2}, frames=13)
    alone.h_jepa.levels[0].load_state_dict(first.state_dict())
    alone.h_jepa.world_model.load_state_dict(model.h_jepa.world_model.state_dict())
    alone(clips, actions).loss.backward()
    for name, parameter in first.named_parameters():  # the second level does not train the first
        assert_close(parameter.grad, alone.h_jepa.levels[0].get_parameter(name).grad, rtol=1e-5, atol=1e-6)


def test_padding_counts_nothing():
    model = made({"stride": 2}, frames=7)
    clips, actions = batch(7)
    lengths = torch.tensor([7, 5, 4])
    mask = torch.arange(7) < lengths[:, None]
    actions = actions.masked_fill(~mask[:, 1:, None], float("nan"))
    out = model(clips, actions, frame_mask=mask)
    rows = [model(clips[i : i + 1, :n], actions[i : i + 1, : n - 1], frame_mask=None) for i, n in enumerate([7, 5, 4])]
    steps = [3, 2, 1]
    for name in ("teacher_forcing_loss", "rollout_loss"):
        wanted = sum(n * row[name] for n, row in zip(steps, rows, strict=True)) / sum(steps)
        assert_close(out[name], wanted, rtol=1e-5, atol=1e-6)
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


# --- states ---------------------------------------------------------------------------------------------------------


def test_a_shared_state_is_that_of_the_world_model():
    model = made({"stride": 2}, kind=HJepaModel).eval()
    clips, _ = batch(3)
    state = model.encode(clips)
    assert model.levels[0].lift(state.latents) is state.latents
    assert_close(model.encode_frames(clips), state.latents, rtol=1e-5, atol=1e-6)
    assert isinstance(model, WorldModel)
    plans = torch.randn(3, 2, 4, 2, generator=torch.Generator().manual_seed(2))
    assert torch.equal(model.unroll(state, plans), model.world_model.unroll(state, plans))


@pytest.mark.parametrize("kind", ["vc", "sigreg"])
def test_a_learned_state_trains_its_targets_and_is_regularised(kind):
    model = made(LEARNED | {"regularizer": kind, "regularizer_weight": 0.5}, frames=7)
    clips, actions = batch(7, size=6)
    if kind == "sigreg":
        with pytest.raises(ValueError, match="pass step="):
            model(clips, actions)
    out = model(clips, actions, step=3)
    assert out.context.shape == (6, 4, 5)
    assert_close(out.loss, out.prediction_loss + out.regularization_loss)
    level = model.h_jepa.levels[0]
    weight = level.state_encoder[0].weight
    (through_regularizer,) = torch.autograd.grad(out.regularization_loss, weight, retain_graph=True)
    (through_prediction,) = torch.autograd.grad(out.prediction_loss, weight)
    assert through_regularizer.abs().max() > 0 and through_prediction.abs().max() > 0
    same = out.context.flatten(0, 1).detach()
    if kind == "vc":
        std = (same.var(dim=0) + 1e-4).sqrt()
        centred = same - same.mean(dim=0)
        covariance = centred.T @ centred / (len(same) - 1)
        off = covariance - covariance.diag().diag()
        assert_close(out.regularization_loss.detach(), 0.5 * ((1 - std).relu().mean() + off.square().sum() / 5))


def test_the_world_model_is_frozen():
    model = made({"stride": 2}, frames=7).train()
    clips, actions = batch(7)
    model(clips, actions).loss.backward()
    assert not model.h_jepa.world_model.training and model.h_jepa.levels.training
    assert all(p.grad is None and not p.requires_grad for p in model.h_jepa.world_model.parameters())
    assert all(p.grad is not None for p in model.h_jepa.levels.parameters())


def test_a_lewm_will_do_as_world_model():
    config = HJepaConfig(
        world_model_config={"model_type": "lewm"} | VARIANTS["lewm"].tiny, levels=[SMALL | {"stride": 2}]
    )
    torch.manual_seed(0)
    model = HJepaForPreTraining(config).eval()
    generator = torch.Generator().manual_seed(0)
    clips, actions = torch.randn(2, 5, 3, 32, 32, generator=generator), torch.randn(2, 4, 4, generator=generator)
    out = model(clips, actions)
    frames = model.h_jepa.world_model.encode_frames(clips)
    assert_close(out.context, frames[:, ::2], rtol=1e-5, atol=1e-5)


# --- statistics of macro-actions ------------------------------------------------------------------------------------


def test_macro_actions_are_measured_at_every_level():
    model = made({"stride": 2}, {"stride": 3, "macro_action_dim": 4}, kind=HJepaModel).eval()
    batches = [batch(14, size=20, seed=seed)[1] for seed in (1, 2)]
    model.fit_macro_actions(iter(batches))
    actions = torch.cat(batches)
    for level, count in zip(model.levels, (40 * 6, 40 * 2), strict=True):
        actions = level.macro_actions(actions).detach()
        rows = actions.flatten(0, 1).double()
        assert level.macro_count == count == len(rows)
        assert_close(level.macro_mean.double(), rows.mean(dim=0), rtol=1e-4, atol=1e-6)
        assert_close(level.macro_std.double(), rows.std(dim=0), rtol=1e-4, atol=1e-6)
        limits = torch.stack([level.macro_low, level.macro_high]).double()
        assert_close(limits, rows.quantile(torch.tensor([0.02, 0.98]).double(), dim=0), rtol=1e-4, atol=1e-6)


def test_too_few_or_broken_macro_actions_are_refused():
    model = made({"stride": 4}, kind=HJepaModel)
    with pytest.raises(ValueError, match="fewer than two whole steps of level 1"):
        model.fit_macro_actions([torch.zeros(1, 7, 2)])
    with pytest.raises(ValueError, match="all of them finite"):
        model.fit_macro_actions([torch.full((3, 8, 2), torch.nan)])
    assert model.levels[0].macro_count == 0


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back(tmp_path):
    model = made({"stride": 2}, {"stride": 3, "macro_action_dim": 4, "state": "shared"}, frames=13)
    clips, actions = batch(13)
    model.fit_macro_actions([actions])
    model.save_pretrained(tmp_path)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(again) is HJepaForPreTraining and again.config.levels == model.config.levels
    state, found = model.state_dict(), again.state_dict()
    assert state.keys() == found.keys() and all(torch.equal(state[key], found[key]) for key in state)
    assert not any(p.requires_grad for p in again.h_jepa.world_model.parameters())
    assert again.h_jepa.levels[0].macro_count == 18
    assert torch.equal(again.eval()(clips, actions).loss, model.eval()(clips, actions).loss)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is HJepaModel and torch.equal(base.levels[1].macro_high, model.h_jepa.levels[1].macro_high)


def test_levels_are_put_on_a_trained_world_model(tmp_path):
    torch.manual_seed(0)
    world = EbJepaForPreTraining(EbJepaConfig(**{k: v for k, v in WORLD.items() if k != "model_type"})).eval()
    world.save_pretrained(tmp_path)
    clips, _ = batch(3)
    wanted = world.eb_jepa.encode(clips).latents
    for source in (tmp_path, str(tmp_path), world, world.eb_jepa):
        model = HJepaForPreTraining.from_encoder(source, levels=[SMALL | {"stride": 4}])
        assert torch.equal(model.h_jepa.encode(clips).latents, wanted)
        assert model.config.strides == (4,) and model.config.world_model_config.name_or_path in ("", tmp_path.name)
    with pytest.raises(ValueError, match="level"):
        HJepaForPreTraining.from_encoder(world, level=[{}])


def test_an_untrained_world_model_is_refused(tmp_path):
    EbJepaModel(EbJepaConfig(**{k: v for k, v in WORLD.items() if k != "model_type"})).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks .* weights of HJepaForPreTraining"):
        HJepaForPreTraining.from_pretrained(tmp_path, config=HJepaConfig(world_model_config=WORLD))


def test_a_model_of_the_meta_device_starts_without_statistics():
    with torch.device("meta"):
        model = made({"stride": 2}, kind=HJepaModel)
    model.to_empty(device="cpu")
    model.init_weights()
    assert model.levels[0].macro_count == 0 and model.levels[0].macro_high.abs().max() == 0
    assert all(p.isfinite().all() and p.abs().max() < 10 for p in model.parameters())


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ({"stride": 0}, "level 1: stride must be a whole number of at least 1, got 0"),
        ({"strides": 3}, r"level 1 has fields \['strides'\]"),
        ({"state": "learned", "state_dim": 4}, "collapses without one"),
        ({"state_dim": 4}, "a learned state, and no other, has one"),
        ({"regularizer": "vc"}, "regularizer='vc'"),
        ({"macro_encoder": "sum"}, "macro_encoder='sum'"),
        ({"macro_encoder": "mean", "macro_action_dim": 8}, "set macro_action_dim=2"),
        ({"coefficient": float("nan")}, "coefficient must be at least 0, got nan"),
    ],
)
def test_levels_that_make_no_sense(level, message):
    with pytest.raises(Exception, match=message):
        HJepaConfig(world_model_config=WORLD, levels=[level])


def test_configs_that_make_no_sense():
    with pytest.raises(Exception, match="frames_per_clip 10 must be above 10"):
        HJepaConfig(world_model_config=WORLD, frames_per_clip=10)
    with pytest.raises(Exception, match="'vjepa2_ac' model, which does not say its latent_shape"):
        HJepaConfig(world_model_config={"model_type": "vjepa2_ac"} | VARIANTS["vjepa2_ac"].tiny)
    assert HJepaLevel().stride == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda clips, actions: (clips[:, :2], actions[:, :1]), "2 frames are less than 3"),
        (lambda clips, actions: (clips, actions[:, :-1]), r"actions have shape \(3, 5, 2\), expected \(3, 6, 2\)"),
        (lambda clips, actions: (clips[:, :, :1], actions), r"expected \(B, T, 2, H, W\)"),
        (lambda clips, actions: (clips, actions, None, torch.ones(3, 7)), "frame_mask is torch.float32"),
        (lambda clips, actions: (clips, actions, None, torch.arange(7).expand(3, 7) % 2 == 0), "has holes"),
        (lambda clips, actions: (clips, actions, None, torch.arange(7).expand(3, 7) < 2), "leaves no trajectory of 3"),
    ],
)
def test_batches_that_do_not_fit(change, message):
    model = made({"stride": 2}, frames=7)
    with pytest.raises(ValueError, match=message):
        model(*change(*batch(7)))


def test_unrolling_refuses_primitive_actions():
    level = made({"stride": 2}, kind=HJepaModel).levels[0]
    with pytest.raises(ValueError, match=r"are not \(1, S, H, 3\)"):
        level.unroll(WorldState(torch.zeros(1, 1, 12)), torch.zeros(1, 2, 4, 2))
