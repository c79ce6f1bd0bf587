"""Multi-head attention behind transformers' attention-interface switch (eager, sdpa, flash, flex)."""

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention that also returns its weights. query, key, value (B, H, N, d) -> (B, N, H, d), (B, H, N, N)."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MultiHeadAttention(nn.Module):
    """What all attentions share: heads, and the switch between implementations. Their projections they add.

    Args:
        config: the model's config, read only for the choice of attention implementation, which may change at run time.
        dim: width of the tokens.
        num_heads: heads; must divide `dim`.
        dropout: probability of dropping an attention weight while training.

    Raises:
        ValueError: a width that does not divide into the heads.
    """

    is_causal = False  # read by the sdpa and flash back ends

    def __init__(self, config: PreTrainedConfig, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"an attention of width {dim} cannot be split into {num_heads} heads")
        self.config = config
        self.head_dim = dim // num_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = dropout

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, H, N, d)"""
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, H, K, d), (B, H, N, d), (B, H, N, d) -> (B, K, H, d) and, where there are any, weights (B, H, K, N)."""
        function = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.dropout if self.training else 0.0
        return function(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)


class Attention(MultiHeadAttention):
    """Bidirectional self-attention with separate query, key, value projections.

    Args:
        config, dim, num_heads, dropout: see `MultiHeadAttention`.
        qkv_bias: whether the three input projections have a bias.
    """

    def __init__(
        self, config: PreTrainedConfig, dim: int, num_heads: int, qkv_bias: bool = True, dropout: float = 0.0
    ):
        super().__init__(config, dim, num_heads, dropout)
        self.q_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.k_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.v_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.o_proj = nn.Linear(dim, dim)

    def forward(
        self, hidden_states: torch.Tensor, queries: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend to all tokens, from all of them or from some.

        Args:
            hidden_states: (B, N, D), the tokens that are attended to.
            queries: (B, K, D), those of them whose output is wanted; all N unless given.

        Returns:
            (B, K, D) and the attention weights (B, H, K, N) where the implementation has them.
        """
        queries = hidden_states if queries is None else queries
        query = self.split_heads(self.q_proj(queries))
        key, value = self.split_heads(self.k_proj(hidden_states)), self.split_heads(self.v_proj(hidden_states))
        out, weights = self.attend(query, key, value, **kwargs)
        return self.o_proj(out.reshape(queries.shape)), weights


__all__ = ["Attention", "MultiHeadAttention", "eager_attention_forward"]
