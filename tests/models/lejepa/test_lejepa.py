"""LeJEPA beside the recorded numbers of the official code and of stable-pretraining."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from multi_view import CLOSE, GOLDEN, RecordedProjector
from safetensors.torch import load_file

from hf_jepa.models.lejepa.configuration_lejepa import LeJepaConfig
from hf_jepa.models.lejepa.modeling_lejepa import LeJepaForPreTraining, LeJepaModel
from hf_jepa.registry import VARIANTS


TINY = VARIANTS["lejepa"].tiny
STEP = 7


def recorded(**fields):
    """Outputs for the recorded embeddings of 4 views, 2 of which are global."""
    io = load_file(GOLDEN / "sigreg_lejepa/io.safetensors")
    embeddings = io["proj"].clone().requires_grad_()
    model = LeJepaForPreTraining(LeJepaConfig(**TINY | {"proj_size": 10, "sigreg_num_slices": 32} | fields)).train()
    model.projector = RecordedProjector(embeddings.flatten(0, 1))
    views = [torch.randn(24, 2, 3, 16, 16), torch.randn(24, 2, 3, 8, 8)]
    return model(views, step=STEP), embeddings, io


@pytest.mark.parametrize(
    ("fields", "total", "invariance", "regularization"),
    [
        ({}, "lejepa_loss_global_lambda0.05", "invariance_global_centre_2views", "sigreg"),
        (
            {"sigreg_weight": 0.02, "invariance_centre": "all"},
            "lejepa_loss_lambda0.02",
            "invariance_all_views",
            "sigreg",
        ),
        (
            {"sigreg_weight": 0.02, "combination": "additive", "sigreg_flattened": True},
            "stable_pretraining.lejepa_loss_lambda0.02_2global",
            "invariance_global_centre_2views",
            "sigreg_views_flattened",
        ),
    ],
    ids=["paper", "minimal", "stable_pretraining"],
)
def test_losses_of_three_implementations(fields, total, invariance, regularization):
    out, _, io = recorded(**fields)
    weight = fields.get("sigreg_weight", 0.05)
    other = 1.0 if "combination" in fields else 1 - weight
    torch.testing.assert_close(out.loss, io[total][0], **CLOSE)
    torch.testing.assert_close(out.prediction_loss, other * io[invariance][0], **CLOSE)
    torch.testing.assert_close(out.regularization_loss, weight * io[regularization][0], **CLOSE)
    centre = io["proj"] if fields.get("invariance_centre") == "all" else io["proj"][:2]
    torch.testing.assert_close(out.targets, centre.mean(0).expand(4, -1, -1))
    assert not out.targets.requires_grad


def test_gradient_of_the_regulariser():
    out, embeddings, io = recorded(sigreg_weight=1.0)
    out.loss.backward()
    torch.testing.assert_close(embeddings.grad, io["grad_proj_of_sigreg"], **CLOSE)


def test_the_gradient_flows_into_the_centre():
    out, embeddings, _ = recorded(sigreg_weight=0.0)
    (found,) = torch.autograd.grad(out.prediction_loss, embeddings, retain_graph=True)
    fixed = 2 * (embeddings - out.targets) / embeddings.numel()  # if the centre were a constant
    assert not torch.allclose(found[:2], fixed[:2])
    torch.testing.assert_close(found[2:], fixed[2:])


def test_without_the_factor_n_the_weight_does_not_depend_on_the_batch():
    with_n, without = (recorded(sigreg_scale_by_n=scale)[0].regularization_loss for scale in (True, False))
    torch.testing.assert_close(with_n, 24 * without)


def test_the_embedding_belongs_to_the_encoder(tmp_path):
    model = LeJepaForPreTraining(LeJepaConfig(**TINY, embedding_size=24)).eval()
    assert model.config.hidden_size == 24 and model.projector[0].in_features == 24
    images = torch.randn(2, 3, 32, 32)
    model.save_pretrained(tmp_path)
    found = LeJepaModel.from_pretrained(tmp_path)(images).pooler_output
    assert found.shape == (2, 24) and torch.equal(found, model.lejepa(images).pooler_output)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigreg_weight": 1.5}, "at most 1 where combination='convex', got 1.5"),
        ({"sigreg_weight": -0.1, "combination": "additive"}, "got -0.1"),
        ({"combination": "sum"}, "combination='sum' is not one of convex, additive"),
        ({"invariance_centre": "local"}, "invariance_centre='local' is not one of global, all"),
        ({"embedding_size": 0}, "embedding_size must be at least 1, got 0"),
        ({"sigreg_num_slices": 0}, "sigreg_num_slices must be at least 1, got 0"),
        ({"sigreg_t_max": 0}, "sigreg_t_max must be above 0 and finite, got 0"),
        ({"sigreg_t_max": float("inf")}, "sigreg_t_max must be above 0 and finite, got inf"),
        ({"sigreg_num_points": 1}, "sigreg_num_points must be at least 2, got 1"),
        ({"target_source": "ema"}, "target_source='ema'"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        LeJepaConfig(**TINY | fields)
