"""A fingerprint notices other weights, and refuses to vouch for broken ones."""

import json

import pytest
import torch

from hf_jepa.hub.fingerprint import FILE_NAME, compute_fingerprint, differences, write_fingerprint
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaModel


@pytest.fixture
def model():
    torch.manual_seed(0)
    return IJepaModel(
        IJepaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=32, patch_size=8)
    )


def test_the_same_weights_agree_and_say_which_torch(model, tmp_path):
    model.train()
    assert write_fingerprint(model, tmp_path)["torch"] == torch.__version__
    assert model.training, "the mode of the model is left as it was"
    assert differences(model, tmp_path) == []


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
