"""The pre-norm transformer layer of the ViT-like encoders and predictors."""

from collections.abc import Callable

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_jepa.layers.attention import Attention
from hf_jepa.layers.mlp import MLP


class TransformerLayer(GradientCheckpointingLayer):
    """`x += attention(norm(x)); x += mlp(norm(x))`, with parameter names as in native I-JEPA.

    Args:
        config: the model's config, handed to the attention for its implementation switch.
        dim: width D of the tokens.
        num_heads: attention heads.
        mlp_dim: hidden width of the feed-forward network.
        layer_norm_eps: epsilon of both LayerNorms.
        qkv_bias, hidden_act, attention_dropout, hidden_dropout: as in the config.
        residual_init_divisor: the two linear layers that write into the residual stream start with a standard
            deviation divided by this number; `sqrt(2 l)` for layer l = 1, 2, ... is the depth rescaling of the
            official classes.
    """

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
        hidden_dropout: float = 0.0,
        residual_init_divisor: float = 1.0,
    ):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.attention = Attention(config, dim, num_heads, qkv_bias=qkv_bias, dropout=attention_dropout)
        self.layernorm_after = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.mlp = MLP(dim, mlp_dim, hidden_act)
        self.dropout = nn.Dropout(hidden_dropout)
        # The divisor rides on the Linear, because transformers calls `_init_weights` only for modules that own
        # parameters, so a parent cannot adjust its children there.
        self.attention.o_proj._init_divisor = residual_init_divisor
        self.mlp.fc2._init_divisor = residual_init_divisor

    def forward(
        self,
        hidden_states: torch.Tensor,
        select: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Update the tokens, or only some of them.

        Args:
            hidden_states: (B, N, D)
            select: picks K tokens from (B, N, D) whose output is wanted; the others are only attended to. The result
                is that of picking from the full output, for less work where this layer is the last one.

        Returns:
            (B, N, D), or (B, K, D).
        """
        normed = self.layernorm_before(hidden_states)
        queries = None
        if select is not None:
            queries, hidden_states = select(normed), select(hidden_states)
        attended, _ = self.attention(normed, queries, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.layernorm_after(hidden_states)))


__all__ = ["TransformerLayer"]
