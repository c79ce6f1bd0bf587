"""data2vec of images against recorded numbers of the official code: targets, loss, gradients, average, conversion."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.losses.layer_targets import feature_spread
from hf_jepa.models.data2vec_vision.configuration_data2vec_vision import Data2VecVisionConfig
from hf_jepa.models.data2vec_vision.convert_data2vec_vision import LAYOUT
from hf_jepa.models.data2vec_vision.modeling_data2vec_vision import Data2VecVisionForPreTraining, Data2VecVisionModel
from hf_jepa.training.schedules import momentum_at


GOLDEN = Path(__file__).parents[2] / "fixtures/golden/data2vec/vision_step"
SETTINGS = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "io.safetensors")


@pytest.fixture(scope="module")
def official():
    return torch.load(GOLDEN / "checkpoint.pt", weights_only=True)


@pytest.fixture(params=["eager", "sdpa"])
def model(official, request):
    config = LAYOUT.infer_config(official)
    config._attn_implementation = request.param
    model = Data2VecVisionForPreTraining(config)
    model.load_state_dict(LAYOUT.convert(official, config), strict=True)
    return model.train()


def test_config_of_the_file(official):
    config, model = LAYOUT.infer_config(official), SETTINGS["model"]
    expected = {
        "hidden_size": model["embed_dim"],
        "num_hidden_layers": model["depth"],
        "num_attention_heads": model["num_heads"],
        "intermediate_size": model["embed_dim"] * model["mlp_ratio"],
        "image_size": model["image_size"],
        "patch_size": model["patch_size"],
        "top_k_layers": model["average_top_k_layers"],
        "loss_beta": model["loss_beta"],
        "drop_path_rate": model["drop_path"],
        "attention_probs_dropout_prob": model["attention_dropout"],
        "target_normalization": "layer_norm",
        "layer_target_normalization": "none",
        "layer_norm_eps": 1e-5,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_targets(model, golden):
    every = torch.ones(golden["bool_mask"].shape, dtype=torch.bool)
    targets = model.encode_targets(golden["images"], every)
    torch.testing.assert_close(targets.view_as(golden["target_full"]), golden["target_full"], **TOLERANCE)
    model.config.top_k_layers, model.config.target_normalization = 1, "none"
    last = model.encode_targets(golden["images"], every)
    torch.testing.assert_close(last.view_as(golden["teacher_block_2"]), golden["teacher_block_2"], **TOLERANCE)


def test_step(model, golden):
    masked = golden["bool_mask"].bool()
    out = model(golden["images"], bool_masked_pos=masked)
    assert len(out.predictions) == golden["sample_size"].item()
    per_sample = golden["loss_sum"] / golden["sample_size"]
    torch.testing.assert_close(out.loss.reshape(1), per_sample, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.targets, golden["target_full"][masked], **TOLERANCE)
    for name, rows in (("target_var", out.targets), ("pred_var", out.predictions.detach())):
        torch.testing.assert_close(feature_spread(rows).reshape(1), golden[name], **TOLERANCE)

    out.loss.backward()
    student = model.data2vec_vision
    attention = student.encoder.layer[0].attention.attention
    found = {
        "encoder.blocks.0.attn.qkv.weight": torch.cat(
            [attention.query.weight.grad, attention.key.weight.grad, attention.value.weight.grad]
        ),
        "encoder.rel_pos_bias.relative_position_bias_table": (
            student.encoder.relative_position_bias.relative_position_bias_table.grad
        ),
        "mask_emb": student.embeddings.mask_token.grad,
        "patch_embed.conv.weight": student.embeddings.patch_embeddings.projection.weight.grad,
    }
    assert {f"grad.{name}" for name in found} == {name for name in golden if name.startswith("grad.")}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, golden[f"grad.{name}"], **TOLERANCE)
    assert all(parameter.grad is None for parameter in model.teacher.parameters())

    with torch.no_grad():
        for parameter in student.encoder.parameters():
            parameter.add_(SETTINGS["student_perturbation_before_ema"])
        student.layernorm.weight.add_(SETTINGS["student_perturbation_before_ema"])
        student.layernorm.bias.add_(SETTINGS["student_perturbation_before_ema"])
    settings = SETTINGS["model"]
    tau = momentum_at(
        settings["ema_step"], settings["ema_anneal_end_step"], settings["ema_decay"], settings["ema_end_decay"]
    )
    assert tau == pytest.approx(golden["ema_decay_at_step"].item(), abs=1e-12)
    model.update_target_encoder(tau)
    after = LAYOUT.revert(model.state_dict(), model.config)["model"]["_ema"]
    for name in ("blocks.0.norm1.weight", "norm.bias"):
        torch.testing.assert_close(after[name], golden[f"after_ema.{name}"], rtol=0, atol=2e-6)


def test_features(model, golden):
    student = model.data2vec_vision.eval()
    features = student(golden["images"]).last_hidden_state[:, 1:]
    torch.testing.assert_close(features, golden["features_unmasked"], **TOLERANCE)


def flat(checkpoint):
    model = checkpoint["model"]
    return {k: v for k, v in model.items() if k != "_ema"} | {f"_ema.{k}": v for k, v in model["_ema"].items()}


def test_conversion_both_ways(official):
    config = LAYOUT.infer_config(official)
    back = LAYOUT.revert(LAYOUT.convert(official, config), config)
    found, expected = flat(back), flat(official)
    assert found.keys() == expected.keys()
    for key in expected.keys() - {"final_proj.weight", "final_proj.bias"}:
        assert torch.equal(found[key], expected[key]) and found[key].dtype == expected[key].dtype, key
    assert torch.equal(found["final_proj.weight"], torch.eye(config.hidden_size))  # never used; what it stands for
    again = LAYOUT.infer_config(back)
    assert again.to_dict() == config.to_dict()
    assert LAYOUT.fields_not_in_layout(config, back) == {}
    assert set(LAYOUT.dropped(official)) == {"target_encoder.final_proj.weight", "target_encoder.final_proj.bias"}


def test_without_a_teacher_it_starts_as_the_student(official, tmp_path):
    student = {"model": {key: value for key, value in official["model"].items() if key != "_ema"}}
    config = LAYOUT.infer_config(student, top_k_layers=2)  # this file has no config
    state = LAYOUT.convert(student, config)
    assert not any(key.startswith("teacher.") for key in state)
    encoder = Data2VecVisionModel(config)
    encoder.load_state_dict({key.removeprefix("data2vec_vision."): value for key, value in state.items()})
    encoder.save_pretrained(tmp_path)
    model = Data2VecVisionForPreTraining.from_pretrained(tmp_path)
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, model.data2vec_vision.state_dict()[name]), name
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda model: model.pop("encoder.norm.weight"), "layernorm.weight"),
        (lambda model: model["_ema"].pop("blocks.1.gamma_1"), "lambda_1"),
        (lambda model: model.update(stray=torch.zeros(1)), "stray"),
        (lambda model: model.pop("encoder.rel_pos_bias.relative_position_bias_table"), "relative_position_bias_table"),
        (lambda model: model["encoder.rel_pos_bias.relative_position_index"].add_(1), "relative_position_index"),
    ],
)
def test_broken_files_are_refused(edit, message):
    broken = torch.load(GOLDEN / "checkpoint.pt", weights_only=True)
    edit(broken["model"])
    with pytest.raises(ValueError, match=message):
        LAYOUT.convert(broken, LAYOUT.infer_config(broken))


def test_other_objectives_are_refused(official):
    for name, value in (("end_of_block_targets", False), ("instance_norm_targets", True)):
        other = official | {"cfg": {"model": official["cfg"]["model"] | {name: value}}}
        with pytest.raises(ValueError, match=name):
            LAYOUT.infer_config(other)


def test_a_head_has_no_place_in_the_official_file():
    config = Data2VecVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, top_k_layers=1, pred_num_layers=1
    )
    with pytest.raises(ValueError, match="pred_num_layers 1"):
        LAYOUT.revert(Data2VecVisionForPreTraining(config).state_dict(), config)


def test_files_of_others_are_refused():
    for other in ({}, {"model": {"blocks.0": torch.zeros(1)}}, {"encoder": {}, "target_encoder": {}}, 3):
        assert LAYOUT.present(other) == []
        with pytest.raises(ValueError, match="not an official data2vec checkpoint of images"):
            LAYOUT.infer_config(other)


def test_flags_that_the_file_does_not_set_are_off(official):
    model = official["cfg"]["model"] | {"layer_norm_targets": False}
    config = LAYOUT.infer_config(official | {"cfg": {"model": model}})
    assert (config.target_normalization, config.layer_target_normalization) == ("none", "none")
    config = LAYOUT.infer_config(official | {"cfg": {"model": model | {"layer_norm_target_layer": True}}})
    assert (config.target_normalization, config.layer_target_normalization) == ("none", "layer_norm")
