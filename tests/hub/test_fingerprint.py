"""A fingerprint notices other weights, and refuses to vouch for broken ones."""

import json

import pytest
import torch

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.fingerprint import (
    FILE_NAME,
    compute_fingerprint,
    differences,
    input_shape,
    load_target_encoder,
    write_fingerprint,
)
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaModel
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForPreTraining, VJepa2Model
from hf_jepa.registry import VARIANTS


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    return IJepaModel(IJepaConfig(**sizes, hidden_dropout_prob=0.5))


def test_the_same_weights_agree_and_say_which_torch(model, tmp_path):
    model.train()
    assert write_fingerprint(model, tmp_path)["torch"] == torch.__version__
    assert model.training, "the mode of the model is left as it was"
    assert differences(model, tmp_path) == []  # nothing is dropped


@pytest.mark.parametrize("name", ["mean", "std", "mean_abs", "value 3"])
def test_a_tampered_number_is_named(model, tmp_path, name):
    fingerprint = write_fingerprint(model, tmp_path)
    if name == "value 3":
        fingerprint["first_values"][3] += 0.01 * fingerprint["std"]
    else:
        fingerprint[name] += 0.01 * fingerprint["std"]
    (tmp_path / FILE_NAME).write_text(json.dumps(fingerprint))
    (line,) = differences(model, tmp_path)
    assert line.startswith(f"{name} is ")


@pytest.mark.parametrize("content", ["{}", "[1]"])
def test_a_file_that_is_no_fingerprint_is_named(model, tmp_path, content):
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ValueError, match="not a fingerprint"):
        differences(model, tmp_path)


def test_weights_that_are_not_numbers_get_no_fingerprint(model):
    with torch.no_grad():
        model.layernorm.bias[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        compute_fingerprint(model)


def test_inspect_checks_16_bit_checkpoints_too(model, tmp_path):
    half = model.to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    write_fingerprint(IJepaModel.from_pretrained(tmp_path, dtype=torch.float32), tmp_path)
    report, agrees = inspect_checkpoint(tmp_path)
    assert agrees and "fingerprint agrees" in report


@pytest.mark.parametrize(
    ("fields", "frames"),
    [
        ({"frames_per_clip": 64}, 8),
        ({"frames_per_clip": 4}, 4),
        ({"frames_per_clip": 6, "tubelet_size": 3}, 6),
        ({"frames_per_clip": 33, "tubelet_size": 3}, 6),
        ({"frames_per_clip": 32, "tubelet_size": 16}, 16),
    ],
)
def test_the_clip_of_a_fingerprint_is_short_and_divides_into_tubelets(fields, frames):
    config = VJepa2Config(crop_size=[32, 48], **fields)
    assert input_shape(config) == (1, frames, 3, 32, 48)


@pytest.fixture
def pretraining(tmp_path):
    torch.manual_seed(0)
    model = VJepa2ForPreTraining(VJepa2Config(**(VARIANTS["vjepa2"].tiny | {"frames_per_clip": 16})))
    model.save_pretrained(tmp_path)
    return model


@pytest.mark.parametrize(
    "name",
    ["encoder.embeddings.patch_embeddings.proj.weight", "encoder.layer.1.mlp.fc2.bias", "encoder.layernorm.weight"],
)
def test_a_video_encoder_is_told_from_one_with_another_weight(pretraining, tmp_path, name):
    found = write_fingerprint(load_target_encoder(VARIANTS["vjepa2"], tmp_path), tmp_path)
    assert found["shape"] == [1, 4 * 16, 32] and "1 x 8 x 3 x 32 x 32" in found["input"]
    assert inspect_checkpoint(tmp_path)[1]
    with torch.no_grad():
        pretraining.vjepa2.get_parameter(name).view(-1)[0] += 0.5
    pretraining.save_pretrained(tmp_path)
    report, agrees = inspect_checkpoint(tmp_path)
    assert not agrees and "fingerprint differs" in report


def test_a_base_model_with_a_predictor_has_the_fingerprint_of_its_encoder(pretraining, tmp_path):
    encoder = load_target_encoder(VARIANTS["vjepa2"], tmp_path)
    assert compute_fingerprint(VJepa2Model.from_pretrained(tmp_path)) == compute_fingerprint(encoder)


@pytest.mark.parametrize("name", ["encoder.layernorm.bias", "predictor.proj.bias"])
def test_an_encoder_or_predictor_with_a_hole_has_no_fingerprint(pretraining, tmp_path, name):
    state = pretraining.state_dict()
    del state[f"vjepa2.{name}"]
    pretraining.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ConversionError, match=f"1 weights are missing.*{name}"):
        load_target_encoder(VARIANTS["vjepa2"], tmp_path)


def test_a_missing_predictor_leaves_the_encoder_its_fingerprint(pretraining, tmp_path):
    state = {key: value for key, value in pretraining.state_dict().items() if not key.startswith("vjepa2.predictor.")}
    pretraining.save_pretrained(tmp_path, state_dict=state)
    encoder = load_target_encoder(VARIANTS["vjepa2"], tmp_path)
    assert torch.equal(encoder.layernorm.bias, pretraining.target_encoder.layernorm.bias)
