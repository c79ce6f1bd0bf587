"""Tiny models and batches of every registered variant."""

import pytest
import torch

from hf_jepa.layers.patch_embedding import pair
from hf_jepa.registry import VARIANTS


def image_batch(config) -> dict:
    """Two images with one context and two target masks."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = config.grid_size
    assert rows * columns >= 17, f"tiny has {rows * columns} tokens, the masks of this batch take 17"
    order = torch.stack([torch.randperm(rows * columns, generator=generator) for _ in range(2)])
    return {
        "pixel_values": torch.randn(2, config.num_channels, *pair(config.image_size), generator=generator),
        "context_mask": [order[:, :9].sort().values],
        "target_mask": [order[:, 9:13].sort().values, order[:, 13:17].sort().values],
    }


BATCHES = {"image": image_batch}  # a modality, not a variant, adds a line here


@pytest.fixture(params=list(VARIANTS))
def variant(request):
    return VARIANTS[request.param]


@pytest.fixture
def config(variant):
    return variant.config_class()(**variant.tiny)


@pytest.fixture
def model(variant, config):
    """A pretraining model in which no parameter is 0 or 1, so that a mix-up shows."""
    torch.manual_seed(0)
    model = variant.model_class()(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.train()


@pytest.fixture
def batch(variant, config):
    return BATCHES[variant.modality](config)
