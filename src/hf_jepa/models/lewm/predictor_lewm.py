"""The networks of a LeWorldModel behind its encoder: what embeds actions, and what predicts the next vector."""

import torch
from torch import nn
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_jepa.layers.attention import eager_attention_forward
from hf_jepa.models.lewm.configuration_lewm import LeWorldModelConfig


MODULATION_EPS = 1e-6


class LeWorldModelActionEncoder(nn.Module):
    """Actions to vectors of the predictor's width, each by itself: (B, H, A) -> (B, H, D)."""

    def __init__(self, config: LeWorldModelConfig):
        super().__init__()
        hidden = config.action_mlp_ratio * config.hidden_size
        self.smoothing = nn.Conv1d(config.action_dim, config.action_smoothed_size, kernel_size=1)
        self.fc1 = nn.Linear(config.action_smoothed_size, hidden)
        self.fc2 = nn.Linear(hidden, config.hidden_size)

    def forward(self, actions: torch.Tensor) -> torch.Tensor:
        smoothed = self.smoothing(actions.to(self.fc1.weight.dtype).mT).mT
        return self.fc2(nn.functional.silu(self.fc1(smoothed)))


class LeWorldModelAttention(nn.Module):
    """Causal self-attention with a LayerNorm of its own, wider than the tokens: (B, F, D) -> (B, F, D)."""

    is_causal = True  # read by the sdpa and flash back ends

    def __init__(self, config: LeWorldModelConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.pred_head_dim
        self.scaling = self.head_dim**-0.5
        width, inner = config.hidden_size, config.pred_num_attention_heads * config.pred_head_dim
        self.norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, inner, bias=False)
        self.v_proj = nn.Linear(width, inner, bias=False)
        self.o_proj = nn.Linear(inner, width)
        self.dropout = nn.Dropout(config.pred_dropout)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        hidden_states = self.norm(hidden_states)
        query, key, value = (
            project(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, F, d)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.dropout.p if self.training else 0.0
        out, _ = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling)
        return self.dropout(self.o_proj(out.flatten(2)))


class LeWorldModelMLP(nn.Module):
    """A feed-forward network with a LayerNorm of its own: (B, F, D) -> (B, F, D)."""

    def __init__(self, config: LeWorldModelConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.fc1 = nn.Linear(config.hidden_size, config.pred_intermediate_size)
        self.fc2 = nn.Linear(config.pred_intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.pred_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dropout(nn.functional.gelu(self.fc1(self.norm(hidden_states))))
        return self.dropout(self.fc2(hidden_states))


class LeWorldModelLayer(GradientCheckpointingLayer):
    """A transformer layer whose branches are shifted, scaled and gated by the action of each frame (AdaLN-zero).

    The norms around which that happens have no scale of their own; attention and MLP begin with one that has. At the
    start all gates are 0 and the layer is the identity.
    """

    def __init__(self, config: LeWorldModelConfig):
        super().__init__()
        width = config.hidden_size
        self.layernorm_before = nn.LayerNorm(width, eps=MODULATION_EPS, elementwise_affine=False)
        self.attention = LeWorldModelAttention(config)
        self.layernorm_after = nn.LayerNorm(width, eps=MODULATION_EPS, elementwise_affine=False)
        self.mlp = LeWorldModelMLP(config)
        self.modulation = nn.Linear(width, 6 * width)
        self.modulation.starts_at_zero = True  # transformers initialises no module without weights of its own

    def forward(
        self, hidden_states: torch.Tensor, conditions: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """(B, F, D) and the activated embeddings of the actions, (B, F, D), -> (B, F, D)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(conditions).chunk(6, dim=-1)
        normed = self.layernorm_before(hidden_states) * (1 + scale) + shift
        hidden_states = hidden_states + gate * self.attention(normed, attention_mask)
        normed = self.layernorm_after(hidden_states) * (1 + mlp_scale) + mlp_shift
        return hidden_states + mlp_gate * self.mlp(normed)


class LeWorldModelPredictor(nn.Module):
    """A causal transformer over a window of frame vectors, with learnt positions, conditioned on actions.

    Args:
        config: its `pred_*` fields size the predictor.

    Example:
        >>> from hf_jepa import VARIANTS, LeWorldModel, LeWorldModelConfig
        >>> predictor = LeWorldModel(LeWorldModelConfig(**VARIANTS["lewm"].tiny)).predictor
        >>> predictor(torch.randn(2, 3, 24), torch.randn(2, 3, 24)).shape
        torch.Size([2, 3, 24])
    """

    def __init__(self, config: LeWorldModelConfig):
        super().__init__()
        self.config = config
        self.position_embeddings = nn.Parameter(torch.empty(1, config.context_frames, config.hidden_size))
        self.layers = nn.ModuleList(LeWorldModelLayer(config) for _ in range(config.pred_num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size)

    def forward(self, embeddings: torch.Tensor, action_embeddings: torch.Tensor) -> torch.Tensor:
        """What comes after each frame of a window, given what was done in it.

        Args:
            embeddings, action_embeddings: (B, F, D), of F consecutive frames and of the action in each of them.

        Returns:
            (B, F, D)

        Raises:
            ValueError: more frames than positions, or other numbers of actions than of frames.
        """
        frames, longest = embeddings.shape[1], self.config.context_frames
        if frames > longest or action_embeddings.shape != embeddings.shape:
            raise ValueError(
                f"embeddings {tuple(embeddings.shape)} and action_embeddings {tuple(action_embeddings.shape)} must be "
                f"alike, of at most {longest} frames (context_frames)"
            )
        hidden_states = embeddings + self.position_embeddings[:, :frames]
        conditions = nn.functional.silu(action_embeddings)
        mask = create_causal_mask(self.config, hidden_states, attention_mask=None, past_key_values=None)
        for layer in self.layers:
            hidden_states = layer(hidden_states, conditions, mask)
        return self.layernorm(hidden_states)


__all__ = ["LeWorldModelActionEncoder", "LeWorldModelLayer", "LeWorldModelPredictor"]
