"""The position-wise feed-forward networks of transformer layers."""

import torch
from torch import nn
from transformers.activations import ACT2FN


class MLP(nn.Module):
    """Two linear layers with an activation between them: (..., D) -> (..., D).

    Args:
        dim: width D of the tokens.
        hidden_dim: width of the hidden layer.
        hidden_act: name of the activation; "gelu" is the exact (erf) GELU.
    """

    def __init__(self, dim: int, hidden_dim: int, hidden_act: str = "gelu"):
        super().__init__()
        self.activation_fn = ACT2FN[hidden_act]
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    @property
    def output_layer(self) -> nn.Linear:
        """The layer that writes into the residual stream."""
        return self.fc2

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class SwiGLU(nn.Module):
    """Three linear layers with a gate, `fc3(silu(fc1 x) * fc2 x)`: (..., D) -> (..., D).

    Args:
        dim: width D of the tokens.
        hidden_dim: width of the hidden layer.
    """

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(dim, hidden_dim)
        self.fc3 = nn.Linear(hidden_dim, dim)

    @property
    def output_layer(self) -> nn.Linear:
        """The layer that writes into the residual stream."""
        return self.fc3

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc3(nn.functional.silu(self.fc1(hidden_states)) * self.fc2(hidden_states))


__all__ = ["MLP", "SwiGLU"]
