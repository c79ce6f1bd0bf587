"""SimSiam beside the recorded numbers of the official code."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from multi_view import CLOSE, GOLDEN, RecordedEncoder
from safetensors.torch import load_file
from torch import nn

from hf_jepa.models.simsiam.configuration_simsiam import SimSiamConfig
from hf_jepa.models.simsiam.modeling_simsiam import SimSiamForPreTraining
from hf_jepa.registry import VARIANTS


TINY = VARIANTS["simsiam"].tiny


@pytest.fixture
def recorded():
    """A model of the recorded heads as they were before the two passes, and its output."""
    io = load_file(GOLDEN / "simsiam/io.safetensors")
    after = load_file(GOLDEN / "simsiam/weights_after_two_forward.safetensors")
    sizes = json.loads((GOLDEN / "simsiam/config.json").read_text())
    backbone = TINY["backbone_config"] | {"hidden_size": sizes["feature_dim"], "num_attention_heads": 2}
    config = SimSiamConfig(backbone_config=backbone, proj_size=sizes["dim"], pred_hidden_size=sizes["pred_dim"])
    model = SimSiamForPreTraining(config).train()
    for name in ("projector", "predictor"):
        head = getattr(model, name)
        head.load_state_dict({k.removeprefix(f"{name}."): v for k, v in after.items() if k.startswith(name)})
        for layer in head:
            if isinstance(layer, nn.BatchNorm1d):
                layer.reset_running_stats()
    model.simsiam = RecordedEncoder(torch.cat([io["features1"], io["features2"]]))
    return model, model(torch.randn(sizes["B"], 2, 3, 8, 8)), io, after


def test_loss_embeddings_and_gradients(recorded):
    model, out, io, _ = recorded
    out.loss.backward()
    torch.testing.assert_close(out.loss, io["loss"][0], **CLOSE)
    torch.testing.assert_close(out.predictions, torch.stack([io["p1"], io["p2"]]), **CLOSE)
    torch.testing.assert_close(out.targets, torch.stack([io["z2"], io["z1"]]), **CLOSE)
    torch.testing.assert_close(model.projector[0].weight.grad, io["grad_projector_0"], **CLOSE)
    torch.testing.assert_close(model.predictor[3].weight.grad, io["grad_predictor_3"], **CLOSE)
    assert out.regularization_loss is None and not out.targets.requires_grad


def test_running_statistics_are_those_of_one_view_after_the_other(recorded):
    model, _, _, after = recorded
    found = {name: buffer for name, buffer in model.named_buffers() if "running" in name or "batches" in name}
    assert len(found) == 12
    for name, buffer in found.items():
        torch.testing.assert_close(buffer, after[name], **CLOSE)


def test_the_bias_in_front_of_the_last_normalisation_is_never_trained(tmp_path):
    model = SimSiamForPreTraining(SimSiamConfig(**TINY))
    model.save_pretrained(tmp_path)
    again = SimSiamForPreTraining.from_pretrained(tmp_path)
    assert "projector.6.bias" in again.state_dict() and "projector.6.bias" not in dict(again.named_parameters())
    assert torch.equal(again.projector[6].bias, model.projector[6].bias)
    assert again.projector[7].weight is None and again.projector[0].bias is None and again.predictor[0].bias is None


def test_hidden_width_follows_the_backbone():
    assert SimSiamConfig.from_size("resnet18").proj_hidden_size == 512
    assert SimSiamConfig.from_size("resnet50").proj_hidden_size == 2048
    assert SimSiamConfig.from_size("resnet18", proj_hidden_size=2048).proj_hidden_size == 2048


@pytest.mark.parametrize("fields", [{"loss_type": "mse"}, {"target_source": "shared"}, {"pred_hidden_size": 0}])
def test_config_refuses(fields):
    ((name, value),) = fields.items()
    with pytest.raises(StrictDataclassClassValidationError, match=rf"{name}.*{value}"):
        SimSiamConfig(**TINY | fields)
