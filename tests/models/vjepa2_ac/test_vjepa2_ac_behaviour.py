"""V-JEPA 2-AC: what is trained, how the loss is made, configs, checkpoints."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_batches import trajectories
from transformers import AutoModel, AutoModelForPreTraining

from hf_jepa.hub.processors import load_processor
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForPreTraining
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig
from hf_jepa.models.vjepa2_ac.modeling_vjepa2_ac import VJepa2ACForPreTraining, VJepa2ACModel
from hf_jepa.registry import VARIANTS


TINY = VARIANTS["vjepa2_ac"].tiny


def make(**fields) -> VJepa2ACForPreTraining:
    torch.manual_seed(0)
    return VJepa2ACForPreTraining(VJepa2ACConfig(**(TINY | fields)))


def test_the_released_model_has_the_published_size():
    config = VJepa2ACConfig.from_size("vit_giant")
    with torch.device("meta"):
        model = VJepa2ACForPreTraining(config)
    assert sum(p.numel() for p in model.predictor.parameters()) == 305_220_992
    assert sum(p.numel() for p in model.predictor.layer.parameters()) == 302_309_376
    assert sum(p.numel() for p in model.target_encoder.parameters()) == 1_012_173_952


def test_initialisation():
    model = make(pred_hidden_size=192, pred_num_hidden_layers=3)
    assert not model.predictor.embeddings.action_encoder.bias.any()
    for index, layer in enumerate(model.predictor.layer, start=1):
        for written in (layer.attention.proj, layer.mlp.fc2):
            assert math.isclose(written.weight.std().item(), 0.02 / math.sqrt(2 * index), rel_tol=0.03)
        assert math.isclose(layer.attention.query.weight.std().item(), 0.02, rel_tol=0.03)
        assert not layer.mlp.fc1.bias.any()


@pytest.mark.parametrize(
    "fields", [{}, {"use_extrinsics": True}, {"state_dim": 0}], ids=["plain", "camera", "no states"]
)
def test_what_is_trained_and_only_that_has_gradients(fields):
    model = make(**fields)
    batch = trajectories(model.config)
    if model.config.use_extrinsics:
        batch["extrinsics"] = torch.rand(3, 4, 6)
    model.train()
    assert model.predictor.training and not any(module.training for module in model.target_encoder.modules())
    model(**batch).loss.backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    camera = "vjepa2_ac.predictor.embeddings.extrinsics_encoder.weight"
    assert (camera in trained) is model.config.use_extrinsics
    assert not any("vjepa2_ac.encoder." in name for name in trained) and camera in model.state_dict()
    assert ("vjepa2_ac.predictor.embeddings.state_encoder.bias" in trained) is (model.config.state_dim > 0)


def terms(model, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Both terms by the book, every prediction computed anew."""
    config = model.config
    h = model.encode_targets(batch["pixel_values_videos"])
    a, s = batch["actions"], batch["states"]

    def predict(frames):
        out = model.predictor(frames, a[:, : frames.shape[1]], s[:, : frames.shape[1]]).last_hidden_state
        return torch.nn.functional.layer_norm(out, out.shape[-1:])

    forced = predict(h[:, :-1])
    seen = [h[:, 0], forced[:, 1 if config.rollout_start == "first_release" else 0]]
    for _ in range(1, config.auto_steps):
        seen.append(predict(torch.stack(seen, dim=1))[:, -1])
    rolled = torch.stack(seen[1:], dim=1)
    p = config.loss_exp
    distance = [(x - h[:, 1 : 1 + x.shape[1]]).abs().pow(p).mean() / p for x in (forced, rolled)]
    return tuple(distance)


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_steps": 1},
        {"auto_steps": 3},
        {"rollout_start": "first_release"},
        {"rollout_start": "first_release", "auto_steps": 3},
        {"loss_exp": 2.5},
        {"is_frame_causal": False, "auto_steps": 3},
    ],
    ids=str,
)
def test_the_loss_is_that_of_the_book(fields):
    model = make(**fields, initializer_range=0.2)
    batch = trajectories(model.config)
    out, weight = model(**batch), model.predictor.layer[0].attention.key.weight
    found, expected = (out.teacher_forcing_loss, out.rollout_loss), terms(model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    (own,), (wanted,) = (torch.autograd.grad(sum(each), weight) for each in (found, expected))
    torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(out.loss, out.teacher_forcing_loss + out.rollout_loss)
    assert torch.equal(out.loss, out.prediction_loss) and out.rollout.shape[1] == model.config.auto_steps


def test_the_first_release_started_from_another_frame():
    batch = trajectories(make().config)
    ours, theirs = (make(rollout_start=start)(**batch) for start in ("corrected", "first_release"))
    assert torch.equal(ours.predictions, theirs.predictions)
    assert torch.equal(ours.rollout[:, 0], ours.predictions[:, 0])
    assert torch.equal(theirs.rollout[:, 0], theirs.predictions[:, 1])
    assert not torch.equal(ours.rollout_loss, theirs.rollout_loss)


def test_encoded_frames_can_be_kept():
    model, batch = make(), trajectories(make().config)
    latents = model.encode_targets(batch["pixel_values_videos"])
    assert torch.equal(model.objective(latents, batch["actions"], batch["states"]).loss, model(**batch).loss)


def test_hidden_states_and_attentions_are_those_of_the_encoder():
    model = make().eval()
    model.set_attn_implementation("eager")
    batch, asked = trajectories(model.config), {"output_hidden_states": True, "output_attentions": True}
    frames = batch["pixel_values_videos"].flatten(0, 1)
    expected = model.target_encoder(frames, **asked)
    for out in (model(**batch, **asked), model.base_model(batch["pixel_values_videos"], **asked)):
        for found, wanted in ((out.hidden_states, expected.hidden_states), (out.attentions, expected.attentions)):
            assert len(found) == len(wanted) > 0
            assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert model(**batch).hidden_states is None


def test_back_ends_and_autocast_agree():
    model, batch = make(), trajectories(make().config)
    sdpa = model(**batch).loss
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**batch).loss, sdpa, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**batch)
    out.loss.backward()
    assert out.predictions.dtype == torch.float32
    torch.testing.assert_close(out.loss, sdpa, rtol=0.02, atol=0.0)
    base = model.base_model.eval()
    state = base.encode(batch["pixel_values_videos"][:, :1], states=batch["states"][:, :1])
    with torch.no_grad():
        expected = base.unroll(state, batch["actions"][:, None])
        with torch.autocast("cpu", torch.bfloat16):
            found = base.unroll(state, batch["actions"][:, None])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.15)


def test_saved_loaded_and_frozen_again(tmp_path):
    model, batch = make(), trajectories(make().config)
    model.save_pretrained(tmp_path)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(again) is VJepa2ACForPreTraining and torch.equal(again(**batch).loss, model(**batch).loss)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is VJepa2ACModel and base.config.pred_hidden_size == 24
    for loaded in (again, base):
        frozen = {name.rpartition(".")[0] for name, p in loaded.named_parameters() if not p.requires_grad}
        assert any("extrinsics_encoder" in name for name in frozen) and any("encoder.layer" in name for name in frozen)
        assert not any("action_encoder" in name or "predictor.layer" in name for name in frozen)
        assert not loaded.base_model.encoder.training
    state = model.base_model.encode(batch["pixel_values_videos"][:, :1], states=batch["states"][:, :1])
    actions = batch["actions"][:, None]
    assert torch.equal(base.unroll(state, actions), model.eval().base_model.unroll(state, actions))
    processor = load_processor(None, again.config)
    processor.save_pretrained(tmp_path)
    assert load_processor(str(tmp_path), again.config).crop_size == processor.crop_size


def test_a_new_predictor_on_a_trained_encoder(tmp_path):
    torch.manual_seed(1)
    fields = {name: TINY[name] for name in TINY if not name.startswith("pred_")}
    VJepa2ForPreTraining(VJepa2Config(**fields, rope_layout="interleaved")).save_pretrained(tmp_path / "vjepa2")
    model = VJepa2ACForPreTraining.from_encoder(tmp_path / "vjepa2", pred_hidden_size=24, pred_num_attention_heads=2,
                                                pred_num_hidden_layers=1, frames_per_clip=5)  # fmt: skip
    source = VJepa2ForPreTraining.from_pretrained(tmp_path / "vjepa2").target_encoder
    assert model.config.rope_layout == "interleaved" and model.config.frames_per_clip == 5
    frames = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.target_encoder(frames).last_hidden_state, source.eval()(frames).last_hidden_state)
    assert not any(p.requires_grad for p in model.target_encoder.parameters())
    with pytest.raises(ValueError, match="lacks .* of VJepa2ACForPreTraining.*from_encoder"):
        VJepa2ACForPreTraining.from_pretrained(tmp_path / "vjepa2", config=model.config)
    with pytest.raises(ValueError, match="no field actoin_dim"):
        VJepa2ACForPreTraining.from_encoder(tmp_path / "vjepa2", actoin_dim=3)
    make().save_pretrained(tmp_path / "ac")
    with pytest.raises(ValueError, match="is a vjepa2_ac"):
        VJepa2ACForPreTraining.from_encoder(tmp_path / "ac")


def test_batches_that_do_not_fit_are_refused():
    model, batch = make(auto_steps=3), trajectories(make().config)
    for changed, message in (
        ({"actions": batch["actions"][:, :2]}, r"actions are of shape \(3, 2, 7\): beside 3 frames of 3 samples"),
        ({"states": batch["states"][:, :3]}, r"states of shape \(3, 3, 7\) beside 4 frames"),
        ({"states": None}, "states are missing"),
        ({"states": batch["states"][..., :6]}, r"needs \(3, 3, 7\)"),
        ({"pixel_values_videos": batch["pixel_values_videos"][:, :3]}, "clips of 3 frames: auto_steps 3"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**(batch | changed))
    with pytest.raises(TypeError, match="no argument 'context_mask'"):
        model(**batch, context_mask=torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames_per_clip": 1}, "frames_per_clip 1 at least 2"),
        ({"auto_steps": 4}, "needs 5 frames, but frames_per_clip is 4"),
        ({"auto_steps": 0}, "auto_steps must be at least 1, got 0"),
        ({"rollout_start": "fixed"}, "'fixed' is not one of corrected, first_release"),
        ({"rollout_start": "first_release", "frames_per_clip": 2, "auto_steps": 1}, "needs 3 frames"),
        ({"state_update": "add"}, "'add' is not one of pose, sum"),
        ({"action_dim": 4}, "actions of 4 numbers to states of 7"),
        ({"action_dim": 0}, "action_dim 0"),
        ({"context_frames": 0}, "context_frames must be at least 1"),
        ({"loss_exp": 0.5}, "loss_exp 0.5"),
        ({"loss_exp": 2, "loss_type": "mse"}, "loss_type is 'l1'"),
        ({"target_source": "ema"}, "'ema' is not one of frozen"),
        ({"pred_hidden_size": 8}, "pred_hidden_size 8 in 2 heads"),
        ({"crop_size": 30}, "crop_size 30"),
    ],
)
def test_configs_that_mean_nothing_are_refused(fields, message):
    with pytest.raises(StrictDataclassError) as refused:
        VJepa2ACConfig(**(TINY | fields))
    assert message in str(refused.value.__cause__)
