"""A transformer layer with rotary positions whose tokens may be shown only what comes before them."""

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_jepa.layers.attention import Attention
from hf_jepa.layers.mlp import MLP
from hf_jepa.layers.rotary_2d import rotate_halves


class CausalAttention(Attention):
    """Self-attention with rotary positions and normalised queries and keys, causal or not as the config says.

    Args:
        config: the model's config: its attention implementation and `is_causal` are read whenever it runs, so that
            one model can do both.
        dim, num_heads, qkv_bias, dropout: as in `Attention`.
        qk_norm: LayerNorm over the channels of each head, of queries and keys, before they turn.
        qk_norm_affine, qk_norm_bias: whether these norms learn a scale, and a bias as well.
        layer_norm_eps: their epsilon.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        qk_norm: bool = False,
        qk_norm_affine: bool = False,
        qk_norm_bias: bool = False,
        layer_norm_eps: float = 1e-6,
    ):
        super().__init__(config, dim, num_heads, qkv_bias=qkv_bias, dropout=dropout)
        options = {"eps": layer_norm_eps, "elementwise_affine": qk_norm_affine, "bias": qk_norm_bias}
        self.q_norm = nn.LayerNorm(self.head_dim, **options) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(self.head_dim, **options) if qk_norm else nn.Identity()

    @property
    def is_causal(self) -> bool:
        """Read by the sdpa and flash back ends, which then need no mask."""
        return self.config.is_causal

    def forward(
        self,
        hidden_states: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend.

        Args:
            hidden_states: (B, N, D)
            rotary: cosines and sines of the tokens, (N, d) each.
            attention_mask: what transformers' `create_causal_mask` gives for the implementation at hand.

        Returns:
            (B, N, D) and the attention weights (B, H, N, N) where the implementation has them.
        """
        query = rotate_halves(self.q_norm(self.split_heads(self.q_proj(hidden_states))), *rotary)  # (B, H, N, d)
        key = rotate_halves(self.k_norm(self.split_heads(self.k_proj(hidden_states))), *rotary)
        value = self.split_heads(self.v_proj(hidden_states))
        out, weights = self.attend(query, key, value, attention_mask, **kwargs)
        return self.o_proj(out.reshape(hidden_states.shape)), weights


class GatedMLP(MLP):
    """An MLP with a gate, `fc2(act(gate x) * fc1 x)`: SwiGLU with "silu", GeGLU with "gelu" (Shazeer, 2002.05202).

    Args:
        dim, hidden_dim, hidden_act: as in `MLP`.
    """

    def __init__(self, dim: int, hidden_dim: int, hidden_act: str = "silu"):
        super().__init__(dim, hidden_dim, hidden_act)
        self.gate = nn.Linear(dim, hidden_dim)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.gate(hidden_states)) * self.fc1(hidden_states))


class LayerScale(nn.Module):
    """A learnt factor per channel, small at first, so that a deep model starts near the identity (2103.17239).

    Args:
        dim: channels.
        value: the factors at the start.
    """

    def __init__(self, dim: int, value: float):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.full((dim,), float(value)))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.lambda1


class CausalTransformerLayer(GradientCheckpointingLayer):
    """`x += scale1 * attention(norm(x)); x += scale2 * mlp(norm(x))`, causal or not as the config says.

    Args:
        config: the model's config, handed to the attention.
        dim: width D of the tokens.
        num_heads: attention heads.
        mlp_dim: hidden width of the feed-forward network.
        layer_norm_eps: epsilon of all LayerNorms.
        hidden_act: activation of the feed-forward network.
        gated_mlp: a `GatedMLP` instead of an `MLP`.
        layer_scale: start of the factors on both branches; None: there are no factors.
        hidden_dropout: of the output of both branches.
        drop_path: probability of leaving out a branch of a sample while training (stochastic depth, 1603.09382).
        attention: further arguments of `CausalAttention`.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        layer_norm_eps: float = 1e-6,
        hidden_act: str = "gelu",
        gated_mlp: bool = False,
        layer_scale: float | None = None,
        hidden_dropout: float = 0.0,
        drop_path: float = 0.0,
        **attention,
    ):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.attention = CausalAttention(config, dim, num_heads, layer_norm_eps=layer_norm_eps, **attention)
        self.layernorm_after = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.mlp = (GatedMLP if gated_mlp else MLP)(dim, mlp_dim, hidden_act)
        self.layer_scale1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.layer_scale2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.dropout = nn.Dropout(hidden_dropout)
        self.drop_path = drop_path

    def forward(
        self,
        hidden_states: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """(B, N, D) -> (B, N, D); the other arguments are those of `CausalAttention`."""
        attended, _ = self.attention(self.layernorm_before(hidden_states), rotary, attention_mask, **kwargs)
        hidden_states = hidden_states + self._drop(self.layer_scale1(self.dropout(attended)))
        update = self.mlp(self.layernorm_after(hidden_states))
        return hidden_states + self._drop(self.layer_scale2(self.dropout(update)))

    def _drop(self, branch: torch.Tensor) -> torch.Tensor:
        if not (self.training and self.drop_path > 0):
            return branch
        keep = 1.0 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1).bernoulli_(keep).div_(keep)


__all__ = ["CausalAttention", "CausalTransformerLayer", "GatedMLP", "LayerScale"]
