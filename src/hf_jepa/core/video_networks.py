"""The networks of the video variants: stacks of packed layers, and the predictor that fills mask tokens."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from transformers import initialization as init

from hf_jepa.core.clips import Grid
from hf_jepa.core.video_configuration import VideoConfigMixin
from hf_jepa.layers.packed_transformer import PackedTransformerLayer, Rotary
from hf_jepa.layers.packing import Packing


def transformer_layers(
    config: VideoConfigMixin, depth: int, dim: int, num_heads: int, mlp_ratio: float
) -> nn.ModuleList:
    """The layers of an encoder or a predictor, with the options that the config has for them."""
    mlp_dim = config.mlp_width(dim, mlp_ratio)
    return nn.ModuleList(
        PackedTransformerLayer(config, dim, num_heads, mlp_dim, **config.layer_options(index, depth))
        for index in range(depth)
    )


@torch.no_grad()
def init_mask_tokens(mask_tokens: nn.Parameter, config: VideoConfigMixin) -> None:
    """Start the mask tokens of a predictor at zero, or random as other weights."""
    if config.pred_zero_init_mask_tokens:
        init.zeros_(mask_tokens)
    else:
        init.trunc_normal_(mask_tokens, std=config.initializer_range)


class VideoPredictor(nn.Module):
    """A narrow transformer that fills mask tokens at target positions from the encoded context.

    A variant names its `embeddings_class`, says by `embed` what its embeddings are told, and overrides `rotary` where
    its attention turns queries and keys.

    Args:
        config: its `pred_*` fields size the predictor.

    Example:
        >>> from hf_jepa import VJepa2Predictor
        >>> issubclass(VJepa2Predictor, VideoPredictor)
        True
    """

    embeddings_class: ClassVar[type[nn.Module]]

    def __init__(self, config: VideoConfigMixin):
        super().__init__()
        self.config = config
        dim, heads = config.pred_hidden_size, config.pred_num_attention_heads
        self.embeddings = self.embeddings_class(config)
        self.layer = transformer_layers(config, config.pred_num_hidden_layers, dim, heads, config.pred_mlp_ratio)
        self.layernorm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.proj = nn.Linear(dim, config.hidden_size)

    def forward(
        self,
        context: Sequence[torch.Tensor],
        context_mask: Sequence[torch.Tensor],
        target_mask: Sequence[torch.Tensor],
        grid_sizes: Sequence[Grid],
        mask_index: Sequence[int],
    ) -> tuple[torch.Tensor, ...]:
        """Predict every target from its context, all pairs in one pass.

        Args:
            context: M tensors (B_i, N_i, D) of encoded context tokens.
            context_mask: M LongTensors (B_i, N_i), their indices.
            target_mask: M LongTensors (B_i, K_i), the tokens to predict. With rotary positions, indices beyond the
                grid lie in the future.
            grid_sizes: of each pair the (frames, rows, columns) of its clips' tokens. (The official predictor of
                V-JEPA 2 takes the configured square grid whatever the clips are: pass `config.grid_size` for that.)
            mask_index: of each pair the learnt mask token to use, modulo their number.

        Returns:
            M tensors (B_i, K_i, D).
        """
        pairs = zip(context, context_mask, target_mask, grid_sizes, mask_index, strict=True)
        parts = [self.embed(*pair) for pair in pairs]
        x, _, kept = self.transform(parts, context_mask, target_mask, grid_sizes)
        return tuple(kept.split(self.proj(x)))

    def embed(
        self,
        context: torch.Tensor,
        context_mask: torch.Tensor,
        target_mask: torch.Tensor,
        grid_size: Grid,
        mask_index: int,
    ) -> torch.Tensor:
        """(B, N, D), (B, N), (B, K) -> (B, N + K, P): the context, then mask tokens."""
        return self.embeddings(context, context_mask, target_mask, grid_size, mask_index)

    def rotary(self, indices: Sequence[torch.Tensor], grids: Sequence[Grid], packing: Packing) -> Rotary | None:
        """What the attention turns tokens by, from their indices (B, N) on the grids of their clips: nothing."""
        return None

    def transform(
        self,
        parts: Sequence[torch.Tensor],
        context_mask: Sequence[torch.Tensor],
        target_mask: Sequence[torch.Tensor],
        grid_sizes: Sequence[Grid],
        keep_context: bool = False,
    ) -> tuple[torch.Tensor, Packing, Packing]:
        """The layers and the norm on embedded pairs (B_i, N_i + K_i, P).

        Args:
            parts, context_mask, target_mask, grid_sizes: see `forward`.
            keep_context: the context's tokens are wanted as well, not the targets' alone.

        Returns:
            packed tokens, the packing of context and targets, and that of the targets.
        """
        packing = Packing([part.shape[:2] for part in parts])
        kept = packing.last([mask.shape[1] for mask in target_mask])
        indices = [torch.cat(pair, dim=1) for pair in zip(context_mask, target_mask, strict=True)]
        rotary = self.rotary(indices, grid_sizes, packing)
        x = packing.join(parts)
        for layer in self.layer[:-1]:
            x = layer(x, packing, rotary)
        x = self.layer[-1](x, packing, rotary, None if keep_context else kept)
        return self.layernorm(x), packing, kept


__all__ = ["VideoPredictor", "init_mask_tokens", "transformer_layers"]
