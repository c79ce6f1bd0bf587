"""Native checkpoints load into ours and ours into the native class, with equal outputs at the configured size."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForPreTraining, VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model

from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import (
    VJepa2ForPreTraining,
    VJepa2ForVideoClassification,
    VJepa2Model,
)


TINY = {
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2.0,
    "crop_size": 32,
    "patch_size": 8,
    "frames_per_clip": 8,
    "pred_hidden_size": 32,
    "pred_num_hidden_layers": 2,
    "pred_num_attention_heads": 2,
    "pred_num_mask_tokens": 4,
    "num_pooler_layers": 1,
}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def generic(model):
    """Weights that are no defaults: no zero biases, no unit scales, mask tokens that differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A native model and its folders, whole and in shards."""
    root = tmp_path_factory.mktemp("native")
    model = generic(VJEPA2Model(VJEPA2Config(**TINY)))
    model.save_pretrained(root / "whole")
    model.save_pretrained(root / "shards", max_shard_size="30KB")
    assert len(list((root / "shards").glob("*.safetensors"))) > 2
    return model, root


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(2, 8, 3, 32, 32, generator=generator)
    order = torch.stack([torch.randperm(64, generator=generator) for _ in range(2)])
    return clips, order[:, :20].sort().values, order[:, 20:50].sort().values


def native_prediction(model, clips, context_mask, target_mask):
    return model(clips, context_mask=[context_mask], target_mask=[target_mask]).predictor_output.last_hidden_state


def our_prediction(model, clips, context_mask, target_mask):
    """What the native class computes: it encodes everything and takes the context out of that."""
    full = model(clips).last_hidden_state
    context = full.gather(1, context_mask.unsqueeze(-1).expand(-1, -1, full.shape[-1]))
    return model.predictor([context], [context_mask], [target_mask], [model.token_grid(clips)], [1])[0]


@pytest.mark.parametrize("folder", ["whole", "shards"])
@torch.no_grad()
def test_native_checkpoints_load_and_compute_the_same(native, inputs, folder):
    model, root = native
    clips = inputs[0]
    ours, info = VJepa2Model.from_pretrained(root / folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    encoded = model(clips, skip_predictor=True).last_hidden_state
    torch.testing.assert_close(ours.eval()(clips).last_hidden_state, encoded, **CLOSE)
    torch.testing.assert_close(our_prediction(ours, *inputs), native_prediction(model, *inputs), **CLOSE)
    for frames in (2, 4, 12):  # other lengths at the configured size
        clip = torch.randn(1, frames, 3, 32, 32)
        expected = model(clip, skip_predictor=True).last_hidden_state
        torch.testing.assert_close(ours(clip).last_hidden_state, expected, **CLOSE)


@torch.no_grad()
def test_a_prediction_without_masks_is_that_of_the_native_class(native, inputs):
    model, root = native
    ours, everything = VJepa2Model.from_pretrained(root / "whole").eval(), torch.arange(64).expand(2, -1)
    found = ours(inputs[0], target_mask=everything).predictor_output.last_hidden_state
    torch.testing.assert_close(found, model(inputs[0]).predictor_output.last_hidden_state, **CLOSE)


@pytest.mark.parametrize("load", [VJepa2ForPreTraining, AutoModelForPreTraining])
@torch.no_grad()
def test_pretraining_starts_from_a_native_checkpoint(native, inputs, load, caplog):
    model, root = native
    ours = load.from_pretrained(root / "whole").eval()
    assert type(ours) is VJepa2ForPreTraining
    expected = model(inputs[0], skip_predictor=True).last_hidden_state
    for encoder in (ours.target_encoder, ours.context_encoder):
        torch.testing.assert_close(encoder(inputs[0]).last_hidden_state, expected, **CLOSE)
    torch.testing.assert_close(our_prediction(ours.vjepa2, *inputs), native_prediction(model, *inputs), **CLOSE)
    (message,) = [record.message for record in caplog.records if record.name.startswith("hf_jepa")]
    assert "the context encoder starts as a copy of the target encoder" in message and "predictor" not in message


@torch.no_grad()
def test_the_encoder_of_a_native_classifier_loads(inputs, tmp_path):
    native = generic(VJEPA2ForVideoClassification(VJEPA2Config(**TINY, num_labels=3)))
    native.save_pretrained(tmp_path)
    expected = native.vjepa2(inputs[0], skip_predictor=True).last_hidden_state
    base, info = VJepa2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    whole, info = VJepa2ForVideoClassification.from_pretrained(
        tmp_path, output_loading_info=True, pooler_num_attention_heads=2, pooler_layer_norm_eps=1e-6
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for model in (base, VJepa2ForPreTraining.from_pretrained(tmp_path).vjepa2, whole.vjepa2):
        torch.testing.assert_close(model.eval()(inputs[0]).last_hidden_state, expected, **CLOSE)
        torch.testing.assert_close(our_prediction(model, *inputs), native_prediction(native.vjepa2, *inputs), **CLOSE)
    # The native class gives the pooler the encoder's heads and epsilon: said in the config, it is the same function.
    torch.testing.assert_close(whole.eval()(inputs[0]).logits, native(inputs[0]).logits, **CLOSE)


@pytest.mark.parametrize("shard", ["50GB", "30KB"])
@torch.no_grad()
def test_ours_loads_in_stock_automodel(inputs, tmp_path, shard):
    ours = generic(VJepa2ForPreTraining(VJepa2Config(**TINY)))
    ours.save_pretrained(tmp_path, max_shard_size=shard)
    stock, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(stock) is VJEPA2Model
    assert not info["missing_keys"] and not info["mismatched_keys"]
    state = ours.vjepa2.state_dict()
    assert stock.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in stock.state_dict().items())
    stock.eval()
    found = stock(inputs[0], skip_predictor=True).last_hidden_state
    torch.testing.assert_close(found, ours.target_encoder(inputs[0]).last_hidden_state, **CLOSE)
    torch.testing.assert_close(native_prediction(stock, *inputs), our_prediction(ours.vjepa2, *inputs), **CLOSE)


@pytest.mark.hub  # a process of its own
def test_ours_loads_in_a_process_without_the_package(inputs, tmp_path):
    ours = generic(VJepa2ForPreTraining(VJepa2Config(**TINY)))
    ours.save_pretrained(tmp_path / "model", max_shard_size="30KB")
    torch.save(inputs, tmp_path / "inputs.pt")
    code = (
        "import sys; sys.modules['hf_jepa'] = None\n"
        "import torch\nfrom transformers import AutoModel\n"
        f"model = AutoModel.from_pretrained({str(tmp_path / 'model')!r}).eval()\n"
        f"clips, context, target = torch.load({str(tmp_path / 'inputs.pt')!r}, weights_only=True)\n"
        "out = model(clips, context_mask=[context], target_mask=[target])\n"
        "found = (out.last_hidden_state.detach(), out.predictor_output.last_hidden_state.detach())\n"
        f"torch.save(found, {str(tmp_path / 'out.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    encoded, predicted = torch.load(tmp_path / "out.pt", weights_only=True)
    with torch.no_grad():
        torch.testing.assert_close(encoded, ours.target_encoder(inputs[0]).last_hidden_state, **CLOSE)
        torch.testing.assert_close(predicted, our_prediction(ours.vjepa2, *inputs), **CLOSE)


def test_there_and_back_through_the_native_class_is_exact(native, tmp_path):
    model, root = native
    VJepa2Model.from_pretrained(root / "shards").save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is VJEPA2Model
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("name", ["encoder.layer.1.attention.query.weight", "predictor.embeddings.mask_tokens"])
def test_a_native_checkpoint_with_a_hole_is_refused(native, tmp_path, name):
    _, root = native
    state = load_file(root / "whole/model.safetensors")
    del state[name]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((root / "whole/config.json").read_bytes())
    with pytest.raises(ValueError, match=name):
        VJepa2ForPreTraining.from_pretrained(tmp_path)
