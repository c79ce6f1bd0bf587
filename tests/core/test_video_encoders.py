"""The encoders of V-JEPA 2 and 2.1 by themselves."""

import pytest
import torch
from transformers import VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model

from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2Encoder
from hf_jepa.registry import VARIANTS


CLIP = {"crop_size": 32, "patch_size": 8, "frames_per_clip": 4}


def same(encoder, expected: torch.nn.Module) -> bool:
    found, wanted = encoder.state_dict(), expected.state_dict()
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("name", ["vjepa2", "vjepa2_1"])
@pytest.mark.parametrize("part", ["pretraining", "base", "classifier", "encoder"])
def test_an_encoder_loads_from_any_checkpoint_of_its_variant(tmp_path, name, part):
    variant = VARIANTS[name]
    encoder_class = variant.model_class(variant.base_model).encoder_class
    heads = {"base": variant.base_model, "classifier": variant.heads["AutoModelForVideoClassification"]}
    config = variant.config_class()(**(variant.tiny | CLIP))
    if part == "encoder":
        model = expected = encoder_class(config)
    else:
        model = variant.model_class(heads[part])(config) if part in heads else variant.model_class()(config)
        expected = model.base_model.encoder
    with torch.no_grad():  # no more the fresh start of any seed
        expected.layernorm.bias.add_(1)
    model.save_pretrained(tmp_path)
    encoder, report = encoder_class.from_pretrained(tmp_path, output_loading_info=True)
    assert same(encoder, expected)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    encoder.save_pretrained(tmp_path / "again")
    assert same(encoder_class.from_pretrained(tmp_path / "again"), expected)


@pytest.mark.parametrize("native_class", [VJEPA2Model, VJEPA2ForVideoClassification])
def test_an_encoder_loads_from_a_native_checkpoint(tmp_path, native_class):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "pred_hidden_size": 24}
    native = native_class(VJEPA2Config(**CLIP, **sizes, pred_num_attention_heads=2, pred_num_hidden_layers=1))
    native.save_pretrained(tmp_path)
    encoder, report = VJepa2Encoder.from_pretrained(tmp_path, output_loading_info=True)
    assert same(encoder, native.base_model.encoder)
    assert not report["missing_keys"] and not report["unexpected_keys"]
