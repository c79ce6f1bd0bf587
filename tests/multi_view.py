"""Parts that stand in for networks, where a recorded case begins behind them."""

from pathlib import Path

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling


GOLDEN = Path(__file__).parent / "fixtures/golden/regularizers"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class RecordedProjector(nn.Module):
    """Gives recorded embeddings, one call after another."""

    def __init__(self, *calls: torch.Tensor):
        super().__init__()
        self.calls = list(calls)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        embeddings = self.calls.pop(0)
        assert len(embeddings) == len(features)
        return embeddings


class RecordedEncoder(nn.Module):
    """Gives recorded features, in one call."""

    def __init__(self, features: torch.Tensor):
        super().__init__()
        self.features = features

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        assert len(pixel_values) == len(self.features)
        return BaseModelOutputWithPooling(pooler_output=self.features)
