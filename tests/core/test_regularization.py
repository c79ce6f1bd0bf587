"""Masked prediction without a target encoder: shared targets, kept apart by SIGReg."""

import pytest
import torch
from perturbed import perturbed
from safetensors.torch import load_file

from hf_jepa.losses.prediction import normalize_targets, prediction_loss
from hf_jepa.losses.sigreg import dense_sigreg, sigreg
from hf_jepa.registry import VARIANTS


FIELDS = {"target_source": "shared", "sigreg_weight": 0.5, "sigreg_num_slices": 8, "sigreg_positions": 3}


def build(name: str, **fields):
    variant = VARIANTS[name]
    torch.manual_seed(0)
    return perturbed(variant.model_class()(variant.config_class()(**variant.tiny, **(FIELDS | fields)))).train()


@pytest.fixture(params=["ijepa", "vjepa", "vjepa2"])
def name(request):
    return request.param


@pytest.fixture
def batch(name):
    model = VARIANTS[name]
    config = model.config_class()(**model.tiny)
    tokens = torch.tensor(config.grid_size).prod().item()
    order = torch.stack([torch.randperm(tokens, generator=torch.Generator().manual_seed(i)) for i in range(4)])
    size = (4, 3, 32, 32) if model.modality == "image" else (4, config.frames_per_clip, 3, 32, 32)
    inputs = torch.randn(size, generator=torch.Generator().manual_seed(0))
    return {
        "pixel_values" if model.modality == "image" else "pixel_values_videos": inputs,
        "context_mask": [order[:, :9].sort().values],
        "target_mask": [order[:, 9:13].sort().values],
    }


def inputs_of(model, batch) -> torch.Tensor:
    return batch[model.main_input_name]


def test_there_is_one_encoder(name, batch, tmp_path):
    model = build(name)
    assert model.context_encoder is model.target_encoder is model.feature_encoder
    assert not any(key.startswith("context_encoder.") for key in model.state_dict())
    with pytest.raises(ValueError, match="target_source='shared'"):
        model.update_target_encoder(0.9)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys() == again.state_dict().keys()
    assert all(p.requires_grad for p in again.parameters()) and again.train().target_encoder.training


@pytest.mark.parametrize("on", ["dense", "pooled"])
def test_the_loss_is_prediction_plus_weighted_sigreg(name, batch, on):
    model = build(name, sigreg_on=on)
    out = model(**batch, step=7)
    tokens = model.target_encoder(inputs_of(model, batch)).last_hidden_state
    tokens = tokens if isinstance(tokens, torch.Tensor) else tokens[0]
    if on == "dense":
        expected = dense_sigreg(tokens, 7, num_positions=3, num_slices=8)
    else:
        expected = sigreg(tokens.mean(dim=1), 7, num_slices=8)
    torch.testing.assert_close(out.regularization_loss, 0.5 * expected)
    torch.testing.assert_close(out.loss, out.prediction_loss + out.regularization_loss)
    index = batch["target_mask"][0][..., None].expand(-1, -1, tokens.shape[-1])
    targets = normalize_targets(tokens.gather(1, index), "layer_norm")
    found = out.predictions if isinstance(out.predictions, torch.Tensor) else out.predictions[0]
    torch.testing.assert_close(out.prediction_loss, prediction_loss(found, targets, model.config.loss_type))
    assert not torch.equal(out.regularization_loss, model(**batch, step=8).regularization_loss)


@pytest.mark.parametrize("weight", [0, 0.5])  # with SIGReg the tokens of the targets have a gradient in both
def test_gradient_through_the_targets(name, batch, weight):
    """That of the prediction loss reaches the encoder through the targets in "shared", not in "shared_stopgrad"."""
    gradients = {}
    for source in ("shared", "shared_stopgrad"):
        model = build(name, target_source=source, sigreg_weight=weight)
        out = model(**batch, step=0)
        assert (out.regularization_loss is None) == (weight == 0)
        with torch.no_grad():
            targets = model.encode_targets(inputs_of(model, batch), batch["target_mask"])
        found = [x if isinstance(x, torch.Tensor) else x[0] for x in (out.predictions, targets)]
        by_context = torch.autograd.grad(
            prediction_loss(*found, model.config.loss_type),
            list(model.context_encoder.parameters()),
            allow_unused=True,
        )
        model(**batch, step=0).prediction_loss.backward()
        gradients[source] = [p.grad for p in model.context_encoder.parameters()]
        same = [
            torch.allclose(a, b, atol=1e-7)
            for a, b in zip(gradients[source], by_context, strict=True)
            if b is not None
        ]
        assert all(same) == (source == "shared_stopgrad")


def test_stopgrad_lets_the_gradient_of_sigreg_through(batch, name):
    model = build(name, target_source="shared_stopgrad")
    out = model(**batch, step=0)
    out.regularization_loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.context_encoder.parameters())
    assert all(p.grad is None for p in model.predictor.parameters())


def test_training_asks_for_the_step(name, batch):
    model = build(name)
    with pytest.raises(ValueError, match="number of the optimizer step: pass step="):
        model(**batch)
    assert model.eval()(**batch).loss == model(**batch, step=0).loss


def test_an_ema_checkpoint_goes_on_without_target_encoder_and_back(name, tmp_path):
    model = build(name, target_source="ema", sigreg_weight=0)
    model.save_pretrained(tmp_path / "ema")
    alone = type(model).from_pretrained(tmp_path / "ema", **FIELDS)
    state = model.target_encoder.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in alone.context_encoder.state_dict().items())
    alone.save_pretrained(tmp_path / "alone")
    both = type(model).from_pretrained(tmp_path / "alone", target_source="ema", sigreg_weight=0)
    assert all(torch.equal(value, state[key]) for key, value in both.context_encoder.state_dict().items())
    assert not any(p.requires_grad for p in both.target_encoder.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_source": "ema"}, "target_source='ema' that one is not trained: set target_source='shared'"),
        ({"sigreg_weight": -1.0}, "sigreg_weight must be at least 0, got -1.0"),
        ({"sigreg_weight": float("nan")}, "sigreg_weight must be at least 0, got nan"),
        ({"sigreg_on": "tokens"}, "sigreg_on='tokens' is not one of dense, pooled"),
        ({"sigreg_positions": 0}, "sigreg_positions must be at least 1, got 0"),
        ({"sigreg_num_slices": 0}, "sigreg_num_slices must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(name, fields, message):
    with pytest.raises(Exception, match=message):
        build(name, **fields)


def test_vjepa2_1_has_a_target_encoder_in_any_case():
    variant = VARIANTS["vjepa2_1"]
    with pytest.raises(Exception, match="target_source='shared' is not one of ema, frozen"):
        variant.config_class()(**variant.tiny, target_source="shared")
