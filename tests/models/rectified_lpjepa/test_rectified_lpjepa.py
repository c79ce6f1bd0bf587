"""Rectified LpJEPA beside the recorded numbers of the official code."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from multi_view import CLOSE, GOLDEN, RecordedProjector
from safetensors.torch import load_file
from torch import nn

from hf_jepa.losses import rdmreg as losses
from hf_jepa.models.rectified_lpjepa.configuration_rectified_lpjepa import RectifiedLpJepaConfig
from hf_jepa.models.rectified_lpjepa.modeling_rectified_lpjepa import RectifiedLpJepaForPreTraining
from hf_jepa.registry import VARIANTS


TINY = VARIANTS["rectified_lpjepa"].tiny


@pytest.mark.parametrize("case", ["rdmreg_p1", "rdmreg_p2_mu-1_rgn", "rdmreg_p0.5_mu0.5"])
def test_loss_and_gradient_of_recorded_draws(case, monkeypatch):
    io = load_file(GOLDEN / case / "io.safetensors")
    recorded = json.loads((GOLDEN / case / "config.json").read_text())
    fields = {"proj_size": recorded["D"], "rdmreg_num_projections": recorded["num_projections"]}
    fields |= {"rdmreg_p": recorded["p"], "rdmreg_mu": recorded["mu"], "rdmreg_sigma_mode": recorded["mode_of_sigma"]}
    config = RectifiedLpJepaConfig(**TINY | fields)
    assert config.target_distribution.sigma == pytest.approx(recorded["sigma"])
    targets = [io["target_view1"], io["target_view2"]]
    monkeypatch.setattr(losses, "rectified_targets", lambda *arguments: targets.pop(0))
    monkeypatch.setattr(losses, "unit_directions", lambda *arguments: io["projections"].mT)

    model = RectifiedLpJepaForPreTraining(config).train()
    first, second = io["z1"].requires_grad_(), io["z2"]
    model.projector = RecordedProjector(first, second)
    out = model(torch.randn(recorded["B"], 2, 3, 8, 8), step=0)
    out.loss.backward()
    torch.testing.assert_close(out.loss, io["total"][0], **CLOSE)
    torch.testing.assert_close(out.prediction_loss, 25 * io["invariance"][0], **CLOSE)
    torch.testing.assert_close(out.regularization_loss, 125 * io["rdmreg"][0], **CLOSE)
    torch.testing.assert_close(first.grad, io["grad_z1"], **CLOSE)
    torch.testing.assert_close(out.l0, torch.stack([first, second]).ne(0).float().mean())
    assert torch.equal(out.targets[0], second) and torch.equal(out.targets[1], first)


def test_the_projector_ends_in_a_relu_and_half_of_its_features_are_active():
    model = RectifiedLpJepaForPreTraining(RectifiedLpJepaConfig(**TINY))
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.ReLU]
    assert [type(layer) for layer in model.projector] == kinds
    out = model(torch.randn(8, 2, 3, 32, 32), step=0)
    assert out.predictions.min() == 0 and 0.3 < out.l0 < 0.7 and not out.l0.requires_grad


def test_projections_can_follow_the_features():
    model = RectifiedLpJepaForPreTraining(
        RectifiedLpJepaConfig(**TINY | {"rdmreg_projections": "torch_svd_and_random"})
    )
    views = torch.randn(8, 2, 3, 32, 32)
    found = model(views, step=0).loss
    model.config.rdmreg_projections = "random"
    assert found != model(views, step=0).loss


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rdmreg_p": 0}, "p 0.0 must be above 0"),
        ({"rdmreg_sigma_mode": "one"}, "sigma_mode 'one'"),
        ({"rdmreg_projections": "all"}, "rdmreg_projections='all' is not one of random"),
        ({"rdmreg_weight": -1}, "rdmreg_weight must be at least 0, got -1"),
        ({"rdmreg_num_projections": 0}, "rdmreg_num_projections must be at least 1, got 0"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        RectifiedLpJepaConfig(**TINY | fields)
