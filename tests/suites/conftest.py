"""Tiny models and batches of every registered variant."""

import math

import pytest
import torch

from hf_jepa.layers.patch_embedding import pair
from hf_jepa.registry import VARIANTS


def token_orders(config, generator) -> torch.Tensor:
    """The tokens of two samples in random order."""
    tokens = math.prod(config.grid_size)
    assert tokens >= 17, f"tiny has {tokens} tokens, the masks of this batch take 17"
    return torch.stack([torch.randperm(tokens, generator=generator) for _ in range(2)])


def image_batch(config) -> dict:
    """Two images with one context and two target masks."""
    generator = torch.Generator().manual_seed(0)
    order = token_orders(config, generator)
    return {
        "pixel_values": torch.randn(2, config.num_channels, *pair(config.image_size), generator=generator),
        "context_mask": [order[:, :9].sort().values],
        "target_mask": [order[:, 9:13].sort().values, order[:, 13:17].sort().values],
    }


def video_batch(config) -> dict:
    """Two clips with two pairs of masks, all of different lengths."""
    generator = torch.Generator().manual_seed(0)
    order = token_orders(config, generator)
    size = (2, config.frames_per_clip, config.num_channels, *pair(config.image_size))
    return {
        "pixel_values_videos": torch.randn(size, generator=generator),
        "context_mask": [order[:, :9].sort().values, order[:, 11:17].sort().values],
        "target_mask": [order[:, 9:13].sort().values, order[:, :7].sort().values],
    }


BATCHES = {"image": image_batch, "video": video_batch}  # a modality, not a variant, adds a line here


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
