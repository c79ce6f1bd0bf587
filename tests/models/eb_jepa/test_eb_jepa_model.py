"""EB-JEPA: configs, unrolling, checkpoints, and what is refused."""

import copy

import pytest
import torch
from golden_eb_jepa import config_of
from perturbed import perturbed
from safetensors.torch import load_file, save_file
from tiny_batches import BATCHES
from transformers import AutoModel, AutoModelForPreTraining

from hf_jepa.core.world_model import WorldState
from hf_jepa.models.eb_jepa.configuration_eb_jepa import EbJepaConfig
from hf_jepa.models.eb_jepa.modeling_eb_jepa import EbJepaForPreTraining, EbJepaModel


BACKBONE = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 8,
    "num_channels": 2,
}
TRANSFORMER = {"predictor_type": "transformer", "pred_hidden_size": 16, "pred_num_attention_heads": 2}
# Kinds of models beside the official ones, which the recorded cases cover.
KINDS = {
    "gru": {},
    "gru and an action encoder": {"action_encoder_type": "mlp", "action_hidden_size": 7},
    "transformer": TRANSFORMER | {"context_frames": 2},
    "transformer without actions": TRANSFORMER
    | {"context_frames": 2, "action_dim": 0, "inverse_dynamics_weight": 0.0},
    "backbone": TRANSFORMER
    | {"encoder_type": "backbone", "backbone_config": BACKBONE, "image_size": 16, "context_frames": 3},
    "maps and actions": {
        "encoder_type": "resnet5",
        "predictor_type": "conv",
        "pred_hidden_size": 4,
        "hidden_size": 3,
        "context_frames": 2,
    },
}
KINDS = {name: fields | {"num_unroll_steps": 3} for name, fields in KINDS.items()}


def model_of(kind="gru", **fields) -> EbJepaForPreTraining:
    torch.manual_seed(0)
    return perturbed(EbJepaForPreTraining(config_of("unroll_ac", **(KINDS[kind] | fields)))).eval()


def batch_of(model) -> dict:
    batch = BATCHES["trajectory", "trajectory"](model.config)
    return batch if model.config.action_dim else batch | {"actions": None}


@torch.no_grad()
def test_a_transformer_predicts_from_the_newest_frame_of_each_window():
    predictor = model_of("transformer").predictor
    config = config_of("unroll_ac", **KINDS["transformer"])
    latents, actions = torch.randn(2, 4, config.hidden_size), torch.randn(2, 4, config.action_dim)
    predictions = predictor(latents, actions)
    assert predictions.shape == (2, 3, config.hidden_size)
    for start in range(3):
        frames = slice(start, start + 2)
        tokens = predictor.embedding(latents[:, frames]) + predictor.action_embedding(actions[:, frames])
        tokens = tokens + predictor.position_embedding.weight
        for layer in predictor.layers:
            tokens = layer(tokens)
        expected = predictor.layernorm(predictor.projection(tokens[:, -1]))
        torch.testing.assert_close(predictions[:, start], expected)


def state_of(model, frames) -> WorldState:
    batch = batch_of(model)
    actions = None if batch["actions"] is None else batch["actions"][:, : frames - 1]
    return model.eb_jepa.encode(batch["pixel_values_videos"][:, :frames], actions)


def candidates_of(model, samples=4, horizon=3) -> torch.Tensor:
    return torch.randn(3, samples, horizon, model.config.action_dim, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["autoregressive", "parallel"])
def test_every_kind_learns_everywhere(kind, mode):
    model = model_of(kind, unroll_mode=mode).train()
    out = model(**batch_of(model))
    torch.testing.assert_close(out.loss, out.prediction_loss + out.regularization_loss)
    out.loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert out.predictions.shape == out.targets.shape and not out.targets.requires_grad
    assert out.predictions.ndim == 3 and out.context.ndim == 3


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_do_not_see_one_another(kind):
    model = model_of(kind)
    state, actions = state_of(model, 4), candidates_of(model)
    found = model.eb_jepa.unroll(state, actions)
    assert found.shape == (3, 4, 3, *model.config.latent_shape)
    alone = model.eb_jepa.unroll(state[1:2], actions[1:2, 2:3])
    torch.testing.assert_close(found[1:2, 2:3], alone, rtol=1e-5, atol=1e-5)
    if model.config.action_dim:
        later = actions.clone()
        later[:, :, 2] += 1
        changed = model.eb_jepa.unroll(state, later)
        torch.testing.assert_close(changed[:, :, :2], found[:, :, :2])
        assert (changed[:, :, 2] - found[:, :, 2]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_unrolling_reads_the_newest_window(kind):
    model = model_of(kind)
    length, actions = model.config.context_frames, candidates_of(model, samples=1)
    state = state_of(model, 4)
    expected = model.eb_jepa.unroll(state, actions)
    known = None if state.actions is None else state.actions[:, 4 - length :]
    newest = WorldState(state.latents[:, -length:], known)
    torch.testing.assert_close(model.eb_jepa.unroll(newest, actions), expected)
    first = None if actions.shape[-1] == 0 else actions[:, 0]
    if known is not None:
        first = torch.cat([known, first], dim=1)
    window = model.eb_jepa.predict_autoregressive(newest.latents, first, 3)
    torch.testing.assert_close(window, expected[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_one_parallel_step_is_one_step_from_every_window(kind):
    model = model_of(kind)
    length, state = model.config.context_frames, state_of(model, 6)
    (found,) = model.eb_jepa.predict_parallel(state.latents, state.actions, 1)
    for start in range(6 - length):
        actions = None if state.actions is None else state.actions[:, start : start + length]
        window = state.latents[:, start : start + length]
        alone = model.eb_jepa.predict_autoregressive(window, actions, 1)
        torch.testing.assert_close(found[:, start : start + 1], alone, rtol=1e-5, atol=1e-5)


def test_predictions_are_compared_with_the_frames_after_the_window():
    fields = KINDS["transformer without actions"]
    batch = batch_of(model_of("transformer without actions"))
    for indexing, first in (("corrected", 2), ("official", 1)):
        out = model_of("transformer without actions", window_indexing=indexing)(**batch)
        assert torch.equal(out.targets, out.context[:, first : first + fields["num_unroll_steps"]])
        torch.testing.assert_close(out.prediction_loss, (out.predictions - out.targets).square().mean())


def test_encoder_and_predictor_share_their_norm(tmp_path):
    model = model_of()
    norm = model.eb_jepa.encoder.layernorm
    assert model.eb_jepa.predictor.layernorm is norm
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert not [key for key in saved if key.startswith("eb_jepa.predictor.layernorm")]
    for loaded in (EbJepaForPreTraining.from_pretrained(tmp_path), AutoModelForPreTraining.from_pretrained(tmp_path)):
        found = loaded.state_dict()
        assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
        assert loaded.eb_jepa.predictor.layernorm is loaded.eb_jepa.encoder.layernorm
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is EbJepaModel and base.predictor.layernorm.weight is base.encoder.layernorm.weight
    batch = batch_of(model)
    assert torch.equal(base(batch["pixel_values_videos"]).last_hidden_state, model(**batch).context)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trips(kind, tmp_path):
    model = model_of(kind)
    model.to(memory_format=torch.channels_last).save_pretrained(tmp_path)
    again = EbJepaForPreTraining.from_pretrained(tmp_path).eval()
    changed = {"_name_or_path": 0, "backbone_config": 0}  # transformers notes its type
    assert again.config.to_dict() | changed == model.config.to_dict() | changed
    torch.testing.assert_close(again(**batch_of(model)).loss, model(**batch_of(model)).loss)


def test_a_model_made_without_memory_starts_as_any_other():
    with torch.device("meta"):
        model = EbJepaForPreTraining(config_of("unroll_ac"))
    model.to_empty(device="cpu").init_weights()
    assert model.eb_jepa.predictor.layernorm.weight is model.eb_jepa.encoder.layernorm.weight
    bound = 12**-0.5  # of a GRU cell of 12 units
    largest = model.predictor.rnn.weight_hh.abs().max()
    assert 0.9 * bound < largest <= bound
    first = model.regularizer.inverse_dynamics[0]
    assert 0.015 < first.weight.std() < 0.025 and not first.bias.any()
    assert model(**batch_of(model)).loss.isfinite()


def test_what_a_checkpoint_lacks(tmp_path, caplog):
    model = model_of()
    model.eb_jepa.save_pretrained(tmp_path / "base")
    started = EbJepaForPreTraining.from_pretrained(tmp_path / "base")
    assert torch.equal(started.predictor.rnn.weight_ih, model.predictor.rnn.weight_ih)
    model.save_pretrained(tmp_path / "cut")
    for lost in ("eb_jepa.predictor.rnn.bias_hh", "regularizer.inverse_dynamics.0.bias"):
        model.save_pretrained(tmp_path / "cut")
        path = tmp_path / "cut/model.safetensors"
        state = load_file(path)
        del state[lost]
        save_file(state, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"lacks 1 weights of EbJepaForPreTraining, among them {lost}"):
            EbJepaForPreTraining.from_pretrained(tmp_path / "cut")
    with pytest.raises(ValueError, match="lacks .*predictor"):
        state = {key: value for key, value in load_file(path).items() if "predictor" not in key}
        save_file(state, path, metadata={"format": "pt"})
        EbJepaModel.from_pretrained(tmp_path / "cut")


@pytest.mark.parametrize(
    ("size", "whole", "world_model"), [("two_rooms", 2547378, 2218672), ("moving_mnist", 2127088, 2121776)]
)
def test_named_sizes(size, whole, world_model):
    with torch.device("meta"):
        model = EbJepaForPreTraining(EbJepaConfig.from_size(size))
    assert sum(p.numel() for p in model.parameters()) == whole
    assert sum(p.numel() for p in model.eb_jepa.parameters()) == world_model


def test_what_calls_are_refused():
    model = model_of("transformer")
    batch = batch_of(model)
    clips, actions = batch["pixel_values_videos"], batch["actions"]
    refusals = {
        r"\(3, 2, 17, 17\), expected \(B, T, 2": lambda: model.eb_jepa.encode(clips[:, 0]),
        r"2, 16, 17\), expected \(B, T, 2, 17, 17\)": lambda: model.eb_jepa.encode(clips[..., 1:, :]),
        r"\(3, 5, 1\), expected \(3, 5, 2\)": lambda: model.eb_jepa.encode(clips, actions[..., :1]),
        r"\(3, 4, 2\), expected \(3, 5, 2\)": lambda: model(clips, actions=actions[:, 1:]),
        "clips of 4 frames, the objective needs 5": lambda: model(clips[:, :4], actions=actions[:, :3]),
        "learns from actions": lambda: model(clips),
        "has 1 frames, the predictor reads 2": lambda: model.eb_jepa.unroll(state_of(model, 1), candidates_of(model)),
        r"are not \(3, S, H, 2\)": lambda: model.eb_jepa.unroll(state_of(model, 2), candidates_of(model)[:2]),
        "give these to encode": lambda: model.eb_jepa.unroll(model.eb_jepa.encode(clips), candidates_of(model)),
    }
    for message, call in refusals.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="unexpected keyword argument 'action'"):
        model(clips, action=actions)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder_type": "resnet"}, "encoder_type='resnet' is not one of impala"),
        ({"encoder_type": "resnet5"}, "predictor_type='gru' does not read what encoder_type='resnet5' says"),
        ({"encoder_type": "backbone"}, "needs one"),
        ({"backbone_config": BACKBONE}, "no other reads it"),
        ({"context_frames": 2}, "a 'gru' reads one frame"),
        ({"state_dim": 2}, "state_dim must be 0, got 2"),
        ({"action_dim": 0}, "action_dim=0: a 'gru'"),
        ({**TRANSFORMER, "action_dim": 0}, "inverse_dynamics_weight=1.0 needs actions"),
        ({**TRANSFORMER, "context_frames": 2, "window_indexing": "official"}, "fewer actions than their 2 frames"),
        ({**TRANSFORMER, "pred_hidden_size": 15}, "pred_hidden_size 15 must be a multiple"),
        ({"variance_weight": float("nan")}, "variance_weight must be at least 0, got nan"),
        ({"variance_margin": 0.0}, "variance_margin must be above 0"),
        ({"project_predictions": True}, "project_predictions=True needs a projector"),
        ({"proj_sizes": []}, r"proj_sizes \[\] must be one or more"),
        ({"num_unroll_steps": 6}, "frames_per_clip 6 is less than the 7 frames"),
        ({"image_size": [3, 4, 5]}, r"image_size \[3, 4, 5\] is neither"),
        ({"loss_type": "l3"}, "l3"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
    ],
)
def test_what_configs_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        config_of("unroll_ac", **fields)
    with pytest.raises(ValueError, match="size 'three_rooms' is not one of two_rooms, moving_mnist"):
        EbJepaConfig.from_size("three_rooms")


def test_a_step_lowers_the_loss_of_its_batch():
    model = copy.deepcopy(model_of()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        loss = model(**batch_of(model)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
