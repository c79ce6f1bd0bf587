"""VICReg beside the recorded numbers of the official code, solo-learn and eb_jepa."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from multi_view import CLOSE, GOLDEN, RecordedProjector
from safetensors.torch import load_file
from torch import nn

from hf_jepa.models.vicreg.configuration_vicreg import VicRegConfig
from hf_jepa.models.vicreg.modeling_vicreg import VicRegForPreTraining
from hf_jepa.registry import VARIANTS


TINY = VARIANTS["vicreg"].tiny


def recorded(**fields):
    io = load_file(GOLDEN / "vicreg/io.safetensors")
    views = [io["z1"].clone().requires_grad_(), io["z2"].clone().requires_grad_()]
    model = VicRegForPreTraining(VicRegConfig(**TINY | fields)).train()
    model.projector = RecordedProjector(*views)
    return model(torch.randn(16, 2, 3, 8, 8)), views, io


def test_official_loss_and_gradients():
    out, (first, second), io = recorded()
    out.loss.backward()
    torch.testing.assert_close(out.loss, io["loss"][0], **CLOSE)
    torch.testing.assert_close(out.prediction_loss, 25 * io["invariance"][0], **CLOSE)
    rest = 25 * io["variance_official"][0] + io["covariance_official"][0]
    torch.testing.assert_close(out.regularization_loss, rest, **CLOSE)
    torch.testing.assert_close(first.grad, io["grad_z1"], **CLOSE)
    torch.testing.assert_close(second.grad, io["grad_z2"], **CLOSE)
    assert torch.equal(out.targets[0], second) and torch.equal(out.targets[1], first)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"scaling": "solo_learn"}, "solo_learn.loss"),
        ({"scaling": "eb_jepa"}, "eb_jepa.loss_std1_cov80"),
        ({"scaling": "eb_jepa", "variance_weight": 25, "covariance_weight": 1}, "eb_jepa.loss_std25_cov1"),
    ],
)
def test_other_scalings(fields, name):
    out, _, io = recorded(**fields)
    torch.testing.assert_close(out.loss, io[name][0], **CLOSE)
    weight = 25 if fields["scaling"] == "solo_learn" else 1
    torch.testing.assert_close(out.prediction_loss, weight * io["invariance"][0], **CLOSE)


def test_the_expander():
    config = VicRegConfig.from_size("resnet50")
    assert (config.hidden_size, config.proj_hidden_size, config.proj_size) == (2048, 8192, 8192)
    layers = VicRegForPreTraining(VicRegConfig(**TINY)).projector
    assert [type(layer) for layer in layers] == 2 * [nn.Linear, nn.BatchNorm1d, nn.ReLU] + [nn.Linear]
    assert layers[-1].bias is None and layers[0].bias is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"scaling": "mine"}, "scaling='mine' is not one of official"), ({"covariance_weight": -1}, "got -1")],
)
def test_config_refuses(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        VicRegConfig(**TINY | fields)
