"""The pre-norm transformer layer of the video models, with the names of native V-JEPA 2: packed and rotary.

Differs from `hf_jepa.layers.transformer`, the layer of the image models: it takes several batches in one tensor
(`Packing`), turns queries and keys by position where tables are given, and may skip samples (stochastic depth).
"""

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_jepa.layers.attention import MultiHeadAttention
from hf_jepa.layers.mlp import MLP, SwiGLU
from hf_jepa.layers.packing import Packing
from hf_jepa.layers.rotary import rotate


Rotary = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, (B or 1, N, 1, d), packed as the tokens


class PackedAttention(MultiHeadAttention):
    """Bidirectional self-attention within every sequence of a packed tensor, named as in native V-JEPA 2.

    Args:
        config, dim, num_heads, dropout: see `MultiHeadAttention`.
        qkv_bias: whether the three input projections have a bias.
    """

    def __init__(
        self, config: PreTrainedConfig, dim: int, num_heads: int, qkv_bias: bool = True, dropout: float = 0.0
    ):
        super().__init__(config, dim, num_heads, dropout)
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.key = nn.Linear(dim, dim, bias=qkv_bias)
        self.value = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        hidden_states: torch.Tensor,
        packing: Packing,
        rotary: Rotary | None = None,
        kept: Packing | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | tuple | None]:
        """Attend to all tokens of a sequence, from all of them or from its last ones.

        Args:
            hidden_states: tokens that are attended to, packed, (B, N, D).
            packing: how they are packed.
            rotary: their cosines and sines.
            kept: the packing of the last tokens whose output is wanted; all of them when unset.

        Returns:
            the output, packed as the queries, and the attention weights where the implementation has them: (B, H, K,
            N), or one such tensor per batch of the packing.
        """
        queries, query_rotary = hidden_states, rotary
        if kept is not None:
            queries = packing.take_last(hidden_states, kept)
            query_rotary = rotary and tuple(packing.take_last(table, kept) for table in rotary)
        query = self.query(queries).unflatten(-1, (-1, self.head_dim))  # (B, K, H, d)
        key = self.key(hidden_states).unflatten(-1, (-1, self.head_dim))  # (B, N, H, d)
        value = self.value(hidden_states).unflatten(-1, (-1, self.head_dim))
        if rotary is not None:
            query, key = rotate(query, *query_rotary), rotate(key, *rotary)
        kept = kept or packing
        if packing.stacked and kept.stacked:
            out, weights = self._attend(query, key, value, **kwargs)
        else:
            parts = zip(kept.split(query), packing.split(key), packing.split(value), strict=True)
            outs, weights = zip(*(self._attend(*part, **kwargs) for part in parts), strict=True)
            out, weights = kept.join(outs), weights if weights[0] is not None else None
        return self.proj(out.flatten(-2)), weights

    def _attend(self, query, key, value, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, K, H, d), (B, N, H, d), (B, N, H, d) -> (B, K, H, d) and weights."""
        return self.attend(*(x.transpose(1, 2) for x in (query, key, value)), **kwargs)


class PackedTransformerLayer(GradientCheckpointingLayer):
    """`x += attention(norm1(x)); x += mlp(norm2(x))`, with parameter names as in native V-JEPA 2.

    Args:
        config: the model's config, handed to the attention for its implementation switch.
        dim: width D of the tokens.
        num_heads: attention heads.
        mlp_dim: hidden width of the feed-forward network.
        layer_norm_eps: epsilon of both LayerNorms.
        qkv_bias, hidden_act, attention_dropout: as in the config.
        swiglu: a gated feed-forward network instead of one with `hidden_act`.
        drop_path: probability of leaving out a residual branch of a sample while training (stochastic depth).
        residual_init_divisor: the two linear layers that write into the residual stream start with a standard
            deviation divided by this number; `sqrt(2 l)` for layer l = 1, 2, ... is the depth rescaling of V-JEPA 2.
    """

    attention_class = PackedAttention

    def __init__(
        self,
        config: PreTrainedConfig,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        layer_norm_eps: float = 1e-6,
        qkv_bias: bool = True,
        hidden_act: str = "gelu",
        attention_dropout: float = 0.0,
        swiglu: bool = False,
        drop_path: float = 0.0,
        residual_init_divisor: float = 1.0,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.attention = self.attention_class(config, dim, num_heads, qkv_bias=qkv_bias, dropout=attention_dropout)
        self.norm2 = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.mlp = SwiGLU(dim, mlp_dim) if swiglu else MLP(dim, mlp_dim, hidden_act)
        self.drop_path = drop_path
        self.attention.proj._init_divisor = residual_init_divisor
        self.mlp.output_layer._init_divisor = residual_init_divisor

    def forward(
        self,
        hidden_states: torch.Tensor,
        packing: Packing,
        rotary: Rotary | None = None,
        kept: Packing | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Update the tokens, or only the last ones of every sequence.

        Args:
            hidden_states: packed tokens, (B, N, D).
            packing: how they are packed.
            rotary: their cosines and sines.
            kept: the packing of the last tokens whose output is wanted; the others are only attended to. The result
                is that of taking these from the full output, for less work where this layer is the last one.

        Returns:
            packed tokens, (B, N, D), or (B, K, D) packed as `kept`.
        """
        attended, _ = self.attention(self.norm1(hidden_states), packing, rotary, kept, **kwargs)
        if kept is not None:
            hidden_states, packing = packing.take_last(hidden_states, kept), kept
        hidden_states = hidden_states + self._drop(attended, packing)
        return hidden_states + self._drop(self.mlp(self.norm2(hidden_states)), packing)

    def _drop(self, branch: torch.Tensor, packing: Packing) -> torch.Tensor:
        if not (self.training and self.drop_path > 0):
            return branch
        keep = 1.0 - self.drop_path
        scale = [branch.new_empty(rows, 1, 1).bernoulli_(keep).div_(keep) for rows, _ in packing.shapes]
        return branch * packing.join([s.expand(-1, n, -1) for s, (_, n) in zip(scale, packing.shapes, strict=True)])


__all__ = ["PackedAttention", "PackedTransformerLayer", "Rotary"]
