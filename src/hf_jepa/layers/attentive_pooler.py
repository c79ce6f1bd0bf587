"""The attentive pooler of the V-JEPA probes: learnt queries that read a sequence of tokens."""

import math

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_jepa.layers.attention import MultiHeadAttention
from hf_jepa.layers.mlp import MLP


class PoolerCrossAttention(MultiHeadAttention):
    """Multi-head attention from queries to other tokens, without an output projection.

    Args:
        config, dim, num_heads: see `MultiHeadAttention`.
    """

    def __init__(self, config: PreTrainedConfig, dim: int, num_heads: int):
        super().__init__(config, dim, num_heads)
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)

    def forward(
        self, queries: torch.Tensor, hidden_states: torch.Tensor, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """queries (B, Q, D), hidden_states (B, N, D) -> (B, Q, D) and, where there are any, weights (B, H, Q, N)."""
        query = self.split_heads(self.q_proj(queries))
        key, value = self.split_heads(self.k_proj(hidden_states)), self.split_heads(self.v_proj(hidden_states))
        out, weights = self.attend(query, key, value, **kwargs)
        return out.reshape(queries.shape), weights


class PoolerSelfAttention(PoolerCrossAttention):
    """Multi-head attention of tokens to each other, with an output projection."""

    def __init__(self, config: PreTrainedConfig, dim: int, num_heads: int):
        super().__init__(config, dim, num_heads)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, N, D) -> (B, N, D) and, where there are any, weights (B, H, N, N)."""
        attended, weights = super().forward(hidden_states, hidden_states, **kwargs)
        return self.out_proj(attended), weights


class PoolerSelfAttentionLayer(GradientCheckpointingLayer):
    """`x += attention(norm(x)); x += mlp(norm(x))` over all tokens: (B, N, D) -> (B, N, D)."""

    def __init__(self, config: PreTrainedConfig, dim: int, num_heads: int, mlp_dim: int, layer_norm_eps: float):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.self_attn = PoolerSelfAttention(config, dim, num_heads)
        self.layer_norm2 = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.mlp = MLP(dim, mlp_dim)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states), **kwargs)[0]
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class PoolerCrossAttentionLayer(GradientCheckpointingLayer):
    """`q += attention(q, norm(x)); q += mlp(norm(q))`: the queries are not normed before they attend."""

    def __init__(self, config: PreTrainedConfig, dim: int, num_heads: int, mlp_dim: int, layer_norm_eps: float):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.cross_attn = PoolerCrossAttention(config, dim, num_heads)
        self.layer_norm2 = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.mlp = MLP(dim, mlp_dim)

    def forward(self, queries: torch.Tensor, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        """queries (B, Q, D), hidden_states (B, N, D) -> (B, Q, D)"""
        queries = queries + self.cross_attn(queries, self.layer_norm1(hidden_states), **kwargs)[0]
        return queries + self.mlp(self.layer_norm2(queries))


class AttentivePooler(nn.Module):
    """Self-attention over the tokens, then learnt queries that attend to them: one vector per query.

    The probe of V-JEPA (2404.08471: no self-attention layer, the query attends at once) and of V-JEPA 2 (2506.09985:
    three, always with 16 heads). It knows no position, so tokens of several clips and levels are simply joined (see
    `join_clips`). Parameters have the names of native transformers' `VJEPA2AttentivePooler`, whose heads and epsilon
    however are those of its encoder, so that native classifiers with a ViT-g are another function.

    Differences from the official code: checkpoints of V-JEPA 1 hold a projection `xattn.proj` that is never applied
    nor trained. It has no place here; on the way back a conversion writes the identity, the one matrix with which a
    reader that does apply it computes the same. V-JEPA 1's further layers of a deeper probe (they act on the query)
    are not offered: no released probe has any.

    Args:
        config: the model's config, read only for the choice of attention implementation.
        dim: width D of the tokens.
        num_heads: heads of all attentions; must divide `dim`.
        num_self_attention_layers: layers before the queries attend; the official `depth` counts one more.
        num_queries: Q; action anticipation asks three (verb, noun, action).
        layer_norm_eps: 1e-5 in all official probes, unlike the encoders' 1e-6.

    Raises:
        ValueError: heads that do not divide the width, no query, a negative number of layers.

    Example:
        >>> import torch
        >>> from hf_jepa import AttentivePooler, IJepaConfig
        >>> pooler = AttentivePooler(IJepaConfig(), dim=32, num_heads=4, num_self_attention_layers=1, num_queries=3)
        >>> pooler(torch.randn(2, 10, 32)).shape
        torch.Size([2, 3, 32])
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        dim: int,
        num_heads: int,
        num_self_attention_layers: int,
        num_queries: int = 1,
        layer_norm_eps: float = 1e-5,
    ):
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"num_queries is {num_queries}: a pooler needs at least one query")
        if num_self_attention_layers < 0:
            raise ValueError(f"num_self_attention_layers is {num_self_attention_layers}: it must be 0 or more")
        sizes = (config, dim, num_heads, 4 * dim, layer_norm_eps)
        self.query_tokens = nn.Parameter(torch.zeros(1, num_queries, dim))
        self.self_attention_layers = nn.ModuleList(
            PoolerSelfAttentionLayer(*sizes) for _ in range(num_self_attention_layers)
        )
        self.cross_attention_layer = PoolerCrossAttentionLayer(*sizes)
        # What writes into the residual stream starts smaller the deeper it is, as in the official code, which counts
        # the last layer like the one before it. Why the divisor rides on the Linear: see `TransformerLayer`.
        for number, layer in enumerate(self.self_attention_layers, start=1):
            layer.self_attn.out_proj._init_divisor = layer.mlp.fc2._init_divisor = math.sqrt(2 * number)
        self.cross_attention_layer.mlp.fc2._init_divisor = math.sqrt(2 * max(1, num_self_attention_layers))

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        """Pool the tokens.

        Args:
            hidden_states: (B, N, D); N may differ between calls.

        Returns:
            (B, Q, D)

        Raises:
            ValueError: not tokens of width D.
        """
        width = self.query_tokens.shape[-1]
        if hidden_states.ndim != 3 or hidden_states.shape[-1] != width:
            raise ValueError(
                f"an attentive pooler reads tokens (batch, tokens, {width}), got {tuple(hidden_states.shape)}: "
                "flatten grids of features into one axis of tokens"
            )
        for layer in self.self_attention_layers:
            hidden_states = layer(hidden_states, **kwargs)
        queries = self.query_tokens.expand(len(hidden_states), -1, -1)
        return self.cross_attention_layer(queries, hidden_states, **kwargs)  # (B, Q, D)


__all__ = [
    "AttentivePooler",
    "PoolerCrossAttention",
    "PoolerCrossAttentionLayer",
    "PoolerSelfAttention",
    "PoolerSelfAttentionLayer",
]
