"""Encoders of the registry and what their graphs are compared by, whatever runs the graphs."""

import pytest
import torch
from tiny_models import tiny_model

from hf_jepa.hub.torch_export import ONE_SIZE, example_input
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.registry import VARIANTS


WITH_ENCODER = [name for name, variant in VARIANTS.items() if variant.base_model]
WITH_SIZE = [name for name in WITH_ENCODER if VARIANTS[name].modality in ("image", "video")]
OF_ANY_SIZE = [name for name in WITH_SIZE if name not in ONE_SIZE]
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}


def each(names, quick):
    """One is traced by default, the others by the long tests."""
    return [pytest.param(name, marks=() if name == quick else pytest.mark.slow) for name in names]


def encoder_of(name, **fields):
    variant = VARIANTS[name]
    return variant.encoder_of(tiny_model(name, variant.base_model, std=0.02, **fields)).eval()


def patch_of(encoder):
    return pair(getattr(getattr(encoder.config, "backbone_config", encoder.config), "patch_size", 1))


def assert_equal_outputs(graph, encoder, inputs):
    """A graph (a tensor to a dictionary) gives what the encoder does; the last hidden state."""
    with torch.no_grad():
        expected, found = encoder(inputs, return_dict=True), graph(inputs)
    assert set(found) == {name for name in ("last_hidden_state", "pooler_output") if expected.get(name) is not None}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)
    return found["last_hidden_state"]


def assert_equal_sizes(graph, encoder):
    """At the size that it was trained at, and larger, wider and smaller ones."""
    trained, patch = example_input(encoder, 3), patch_of(encoder)
    spread = assert_equal_outputs(graph, encoder, trained).std()
    height, width = trained.shape[-2:]
    shapes = [(height + patch[0], width), (height, width + 2 * patch[1]), (height // 2, width + patch[1])]
    for height, width in shapes:
        inputs = torch.randn(2, *trained.shape[1:-2], height, width)
        assert_equal_outputs(graph, encoder, inputs)
    assert spread > 0.1
