"""Targets from the top layers, the loss on them and the signals of collapse, against recorded official numbers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.losses.layer_targets import data2vec_loss, feature_spread, layer_targets


GOLDEN = Path(__file__).parents[1] / "fixtures/golden/data2vec/targets"
CONFIG = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
KINDS = {
    "plain_mean": ("none", "none"),
    "layer_norm_after_mean": ("none", "layer_norm"),
    "layer_norm_per_layer": ("layer_norm", "none"),
    "instance_norm_per_layer": ("instance_norm", "none"),
    "instance_norm_after_mean": ("none", "instance_norm"),
    "instance_norm_layer_then_layer_norm_mean": ("instance_norm", "layer_norm"),
    "batch_norm_per_layer": ("batch_norm", "none"),
    "group_norm_per_layer": ("group_norm", "none"),
}


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "io.safetensors")


@pytest.fixture(scope="module")
def layers(golden):
    return [golden[f"layer_{i}"] for i in range(CONFIG["num_layers"])][-CONFIG["top_k"] :]


@pytest.mark.parametrize("kind", KINDS)
def test_targets(golden, layers, kind):
    per_layer, after_mean = KINDS[kind]
    targets = layer_targets(layers, per_layer=per_layer, after_mean=after_mean)
    torch.testing.assert_close(targets, golden[f"target.{kind}"], rtol=1e-4, atol=1e-5)


def test_every_recorded_kind_is_tried(golden):
    assert {f"target.{kind}" for kind in KINDS} == {key for key in golden if key.startswith("target.")}


@pytest.mark.parametrize("beta", CONFIG["betas"])
def test_loss(golden, beta):
    masked = golden["mask"].bool()
    rows = golden["prediction"][masked], golden["target.instance_norm_per_layer"][masked]
    found = {
        f"loss_sum_beta{beta:g}": data2vec_loss(*rows, beta=beta, scale=1.0) * masked.sum(),
        f"loss_beta{beta:g}_scaled_inv_sqrt_dim": data2vec_loss(*rows, beta=beta) * masked.sum(),
        f"loss_beta{beta:g}_scaled_per_sample": data2vec_loss(*rows, beta=beta),
    }
    for name, value in found.items():
        torch.testing.assert_close(value.reshape(1), golden[name], rtol=1e-5, atol=1e-5)


def test_gradient(golden):
    masked = golden["mask"].bool()
    predictions = golden["prediction"].clone().requires_grad_()
    data2vec_loss(predictions[masked], golden["target.instance_norm_per_layer"][masked], beta=2.0).backward()
    torch.testing.assert_close(predictions.grad, golden["grad_prediction_beta2"], rtol=1e-4, atol=1e-5)


def test_collapse_signals(golden):
    masked = golden["mask"].bool()
    for name, rows in (("target_var", golden["target.instance_norm_per_layer"]), ("pred_var", golden["prediction"])):
        torch.testing.assert_close(feature_spread(rows[masked]).reshape(1), golden[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["instance_norm", "batch_norm", "group_norm"])
def test_padding_has_no_part_in_statistics_over_time(layers, kind):
    valid = torch.ones(layers[0].shape[:2], dtype=torch.bool)
    full = layer_targets(layers, per_layer=kind, valid=valid)
    torch.testing.assert_close(full, layer_targets(layers, per_layer=kind))
    padded = [torch.nn.functional.pad(layer, (0, 0, 0, 3), value=7.0) for layer in layers]
    valid = torch.nn.functional.pad(valid, (0, 3))
    for after_mean in ("none", "instance_norm"):
        expected = layer_targets(layers, per_layer=kind, after_mean=after_mean)
        found = layer_targets(padded, per_layer=kind, after_mean=after_mean, valid=valid)[:, : expected.shape[1]]
        torch.testing.assert_close(found, expected)
    counted_in = layer_targets(padded, per_layer=kind)[:, : full.shape[1]]
    assert (counted_in - full).abs().max() > 0.1  # what the official code does


def test_targets_of_16_bit_layers_are_float32(layers):
    assert layer_targets([layer.bfloat16() for layer in layers], after_mean="layer_norm").dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: layer_targets([]), "at least one"),
        (lambda x: layer_targets([x[None]], per_layer="spectral"), "spectral"),
        (lambda x: layer_targets([x[None]], after_mean="batch_norm"), "batch_norm"),
        (lambda x: data2vec_loss(x, x[:1]), r"\(1, 4\)"),
        (lambda x: data2vec_loss(x[:0], x[:0]), "no token is masked"),
        (lambda x: data2vec_loss(x, x, beta=-1.0), "-1"),
        (lambda x: feature_spread(x[:1]), "at least two"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(3, 4))
