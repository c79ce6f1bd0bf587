"""Tiny models of every registered variant."""

import pytest
import torch
from tiny_batches import BATCHES
from tiny_models import shaken

from hf_jepa.registry import VARIANTS


def pytest_generate_tests(metafunc):
    """A test that asks for a `variant` runs for all of them, or for those that its mark `variants` lets through."""
    if "variant" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("variants")
        chosen = [variant for variant in VARIANTS.values() if marker is None or marker.kwargs["condition"](variant)]
        metafunc.parametrize("variant", chosen, ids=[variant.name for variant in chosen])


@pytest.fixture
def config(variant):
    return variant.config_class()(**variant.tiny)


@pytest.fixture
def model(variant, config):
    """A pretraining model in which no parameter is 0 or 1, so that a mix-up shows."""
    torch.manual_seed(0)
    return shaken(variant.model_class()(config)).train()


@pytest.fixture
def batch(variant, config):
    return BATCHES[variant.modality, variant.inputs](config)
