"""The parts of a V-JEPA 2.1: a tokenizer for each modality, and the predictor of several levels."""

from collections.abc import Sequence

import torch
from torch import nn

from hf_jepa.core.clips import Grid
from hf_jepa.layers.patch_embedding import TubeletEmbedding, as_clips, pair
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2Embeddings, VJepa2Predictor, VJepa2PredictorEmbeddings
from hf_jepa.models.vjepa2_1.configuration_vjepa2_1 import VJepa21Config


def side_by_side(levels: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """L levels of some (B_i, N_i, D) to (B_i, N_i, L * D)."""
    return [torch.cat(parts, dim=-1) for parts in zip(*levels, strict=True)]


class ModalityEmbedding(nn.Module):
    """A learnt vector for the tokens of clips, and one for those of images."""

    def __init__(self, dim: int):
        super().__init__()
        self.video = nn.Parameter(torch.zeros(1, 1, dim))
        self.image = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, tokens: torch.Tensor, is_image: bool) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)"""
        return tokens + (self.image if is_image else self.video).to(tokens.dtype)


class VJepa21Embeddings(VJepa2Embeddings):
    """Tubelets of clips, or patches of images, to tokens, each kind by its own convolution."""

    def __init__(self, config: VJepa21Config):
        super().__init__(config)
        self.image_patch_embeddings = TubeletEmbedding(config.in_chans, config.hidden_size, 1, pair(config.patch_size))
        self.modality = ModalityEmbedding(config.hidden_size) if config.modality_embedding else None

    def clips(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W); an image is a clip of one frame."""
        return as_clips(pixel_values_videos, self.config.in_chans, static_frames=1)

    def tokenizer(self, clips: torch.Tensor) -> TubeletEmbedding:
        return self.image_patch_embeddings if clips.shape[1] == 1 else self.patch_embeddings

    def grid_size(self, clips: torch.Tensor) -> Grid:
        return self.tokenizer(clips).grid_size(clips)

    def forward(self, clips: torch.Tensor, masks: Sequence[torch.Tensor] | None) -> list[torch.Tensor]:
        parts = self.tokenizer(clips)(clips, masks)
        return parts if self.modality is None else [self.modality(part, clips.shape[1] == 1) for part in parts]


class VJepa21PredictorEmbeddings(VJepa2PredictorEmbeddings):
    """Context tokens of one or several levels to the predictor's width, and the learnt mask tokens."""

    def __init__(self, config: VJepa21Config):
        super().__init__(config)
        levels, dim = len(config.pred_levels), config.hidden_size
        if levels > 1:
            self.predictor_embeddings = nn.Sequential(
                nn.Linear(levels * dim, dim), nn.GELU(), nn.Linear(dim, config.pred_hidden_size)
            )
        self.modality = ModalityEmbedding(config.pred_hidden_size) if config.modality_embedding else None

    def forward(self, context: torch.Tensor, num_targets: int, mask_index: int, is_image: bool) -> torch.Tensor:
        """(B, N, L * D) -> (B, N + num_targets, P): the context, then mask tokens, all with their modality."""
        tokens = super().forward(context, num_targets, mask_index)
        return tokens if self.modality is None else self.modality(tokens, is_image)


class VJepa21Predictor(VJepa2Predictor):
    """The predictor of V-JEPA 2 on several levels, with a second head for the tokens that are visible.

    Args:
        config: its `pred_*` fields size the predictor.

    Example:
        >>> from hf_jepa import VJepa21Config, VJepa21Predictor
        >>> config = VJepa21Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, levels=[0, 1],
        ...     pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1)
        >>> context_mask, target_mask = torch.tensor([[0, 1, 4]]), torch.tensor([[10, 11]])
        >>> (prediction,), (visible,) = VJepa21Predictor(config)([torch.randn(1, 3, 64)], [context_mask],
        ...     [target_mask], [(2, 4, 4)], [0], [False], predict_context=True)
        >>> prediction.shape, visible.shape
        (torch.Size([1, 2, 64]), torch.Size([1, 3, 64]))
    """

    embeddings_class = VJepa21PredictorEmbeddings

    def __init__(self, config: VJepa21Config):
        super().__init__(config)
        self.proj = nn.Linear(config.pred_hidden_size, config.pred_output_size)
        if config.predict_context:
            self.proj_context = nn.Linear(config.pred_hidden_size, config.pred_output_size)

    def forward(
        self,
        context: Sequence[torch.Tensor],
        context_mask: Sequence[torch.Tensor],
        target_mask: Sequence[torch.Tensor],
        grid_sizes: Sequence[Grid],
        mask_index: Sequence[int],
        is_image: Sequence[bool],
        predict_context: bool = False,
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...] | None]:
        """Predict every target from its context, and the context itself, all pairs in one pass.

        Args:
            context: M tensors (B_i, N_i, L * D) of encoded context tokens, their levels side by side.
            context_mask, target_mask, grid_sizes, mask_index: see `VJepa2Predictor`.
            is_image: of each pair whether its tokens are those of images.
            predict_context: also predict the visible tokens; otherwise the last layer computes the targets alone.

        Returns:
            M tensors (B_i, K_i, `config.pred_output_size`), and M tensors (B_i, N_i, `config.pred_output_size`) in
            the order of the context masks, or None.
        """
        parts = [
            self.embeddings(tokens, mask.shape[1], index, image)
            for tokens, mask, index, image in zip(context, target_mask, mask_index, is_image, strict=True)
        ]
        x, packing, kept = self.transform(parts, context_mask, target_mask, grid_sizes, predict_context)
        if not predict_context:
            return tuple(kept.split(self.proj(x))), None
        visible = zip(packing.split(x), context_mask, strict=True)
        predictions = kept.split(self.proj(packing.take_last(x, kept)))
        return tuple(predictions), tuple(self.proj_context(part[:, : mask.shape[1]]) for part, mask in visible)


__all__ = [
    "ModalityEmbedding",
    "VJepa21Embeddings",
    "VJepa21Predictor",
    "VJepa21PredictorEmbeddings",
    "side_by_side",
]
