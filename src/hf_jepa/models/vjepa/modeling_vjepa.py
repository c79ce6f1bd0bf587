"""V-JEPA (Bardes et al. 2024, arXiv 2404.08471): predict the embeddings of masked tubes of a video from the rest.

An I-JEPA in space and time: a ViT over tubelets on frozen 3-D sine-cosine positions. Two masks for each clip, short
and long range, each with a mask token of its own; an L1 loss. V-JEPA 2 has rotary positions instead. Modules are named
as in native transformers' V-JEPA 2.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import initialization as init

from hf_jepa.core.clips import Grid
from hf_jepa.core.modeling import JepaPreTrainedModel
from hf_jepa.core.video import VideoEncoderMixin, VideoPreTrainingMixin
from hf_jepa.core.video_classification import VideoClassificationMixin
from hf_jepa.core.video_networks import VideoPredictor, init_mask_tokens
from hf_jepa.layers.packed_transformer import PackedAttention, PackedTransformerLayer
from hf_jepa.layers.patch_embedding import TubeletEmbedding, as_clips, pair
from hf_jepa.layers.position import resize_positions, same_grid, sincos_2d, sincos_3d
from hf_jepa.layers.tokens import take_tokens
from hf_jepa.losses.variance import prediction_std, variance_loss
from hf_jepa.models.vjepa.configuration_vjepa import VJepaConfig


def position_table(config: VJepaConfig, dim: int, grid_size: Grid | None = None) -> torch.Tensor:
    """The sine-cosine table (1, N, dim) of a grid, the configured one when unset."""
    grid_size = grid_size or config.grid_size
    if config.is_image_model:
        return sincos_2d(dim, grid_size[1:], row_first=True)
    return sincos_3d(dim, grid_size, config.uniform_power)


def positions_for_grid(table: torch.Tensor, config: VJepaConfig, grid_size: Grid) -> torch.Tensor:
    """The position table (1, N, D) of the configured grid, brought to the grid of the clips at hand."""
    if same_grid(config.grid_size, grid_size):
        return table
    if config.position_resize == "recompute":
        return position_table(config, table.shape[-1], grid_size).to(table)
    axes = slice(1, None) if config.is_image_model else slice(None)
    return resize_positions(table, config.grid_size[axes], grid_size[axes])


class VJepaEmbeddings(nn.Module):
    """Tubelets plus a frozen sine-cosine table."""

    def __init__(self, config: VJepaConfig):
        super().__init__()
        self.config = config
        self.patch_embeddings = TubeletEmbedding(
            config.in_chans, config.hidden_size, config.tubelet_size, pair(config.patch_size)
        )
        self.register_buffer("position_embeddings", position_table(config, config.hidden_size))

    def clips(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W); an image, or a clip of one frame, becomes a static clip of `frames_per_clip` frames."""
        clips = as_clips(pixel_values_videos, self.config.in_chans, static_frames=self.config.frames_per_clip)
        if self.config.is_image_model and clips.shape[1] != 1:
            raise ValueError(
                f"clips of {clips.shape[1]} frames, but with frames_per_clip=1 this is a model of images without "
                "positions in time: give it the frames as images (batch, channels, height, width)"
            )
        return clips

    def grid_size(self, clips: torch.Tensor) -> Grid:
        return self.patch_embeddings.grid_size(clips)

    def forward(self, clips: torch.Tensor, masks: Sequence[torch.Tensor] | None) -> list[torch.Tensor]:
        """(B, T, C, H, W) -> [(B, N, D)], or one (B, K_i, D) per mask."""
        tokens = self.patch_embeddings(clips, masks)
        # In the type of the weights, not of the tokens: under autocast the residual stream stays float32.
        table = self.position_embeddings.to(self.patch_embeddings.proj.weight.dtype)
        table = positions_for_grid(table, self.config, self.grid_size(clips))
        if masks is None:
            return [tokens[0] + table]
        return [x + take_tokens(table, mask) for x, mask in zip(tokens, masks, strict=True)]


class VJepaPredictorEmbeddings(nn.Module):
    """Context tokens to the predictor's width, learnt mask tokens, and the positions of both."""

    def __init__(self, config: VJepaConfig):
        super().__init__()
        self.config = config
        self.predictor_embeddings = nn.Linear(config.hidden_size, config.pred_hidden_size)
        self.mask_tokens = nn.Parameter(torch.zeros(config.pred_num_mask_tokens, 1, 1, config.pred_hidden_size))
        self.register_buffer("position_embeddings", position_table(config, config.pred_hidden_size))

    def forward(
        self,
        context: torch.Tensor,
        context_mask: torch.Tensor,
        target_mask: torch.Tensor,
        grid_size: Grid,
        mask_index: int,
    ) -> torch.Tensor:
        """(B, N, D), (B, N), (B, K) -> (B, N + K, P): the context, then mask tokens."""
        table = self.position_embeddings.to(self.mask_tokens.dtype)
        table = positions_for_grid(table, self.config, grid_size)
        x = self.predictor_embeddings(context) + take_tokens(table, context_mask)
        queries = self.mask_tokens[mask_index % len(self.mask_tokens)] + take_tokens(table, target_mask)
        return torch.cat([x, queries], dim=1)


class VJepaPredictor(VideoPredictor):
    """A narrow transformer that fills mask tokens at target positions from the encoded context.

    Args:
        config: its `pred_*` fields size the predictor.

    Example:
        >>> from hf_jepa import VJepaConfig, VJepaPredictor
        >>> config = VJepaConfig(hidden_size=32, num_attention_heads=2, crop_size=32, patch_size=8, frames_per_clip=4,
        ...                      pred_hidden_size=24, pred_num_hidden_layers=1)
        >>> context_mask, target_mask = torch.tensor([[0, 1, 4]]), torch.tensor([[10, 11]])
        >>> (predictions,) = VJepaPredictor(config)(
        ...     [torch.randn(1, 3, 32)], [context_mask], [target_mask], [config.grid_size], [0])
        >>> predictions.shape
        torch.Size([1, 2, 32])
    """

    embeddings_class = VJepaPredictorEmbeddings


class VJepaPreTrainedModel(JepaPreTrainedModel):
    """Flags and initialisation of all V-JEPA classes."""

    config: VJepaConfig
    base_model_prefix = "vjepa"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    _no_split_modules = ["VJepaEmbeddings", "VJepaPredictorEmbeddings", "PackedTransformerLayer"]
    _can_record_outputs = {"hidden_states": PackedTransformerLayer, "attentions": PackedAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, VJepaEmbeddings):
            init.copy_(module.position_embeddings, position_table(self.config, self.config.hidden_size))
        elif isinstance(module, VJepaPredictorEmbeddings):
            init.copy_(module.position_embeddings, position_table(self.config, self.config.pred_hidden_size))
            init_mask_tokens(module.mask_tokens, self.config)


class VJepaModel(VideoEncoderMixin, VJepaPreTrainedModel):
    """The V-JEPA encoder: a ViT over tubelets that can be shown part of a clip.

    Loads encoder-only checkpoints and pretraining checkpoints (their target encoder). Images are encoded as static
    clips of `frames_per_clip` frames, as the official evaluations on images do.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepaConfig, VJepaModel
        >>> model = VJepaModel(VJepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, crop_size=32,
        ...                                patch_size=8, frames_per_clip=4)).eval()
        >>> clip = torch.randn(1, 4, 3, 32, 48)
        >>> model(clip).last_hidden_state.shape
        torch.Size([1, 48, 32])
        >>> masks = [torch.tensor([[0, 5, 9]]), torch.tensor([[3, 4]])]
        >>> [tokens.shape[1] for tokens in model(clip, context_mask=masks).last_hidden_state]
        [3, 2]
        >>> model.get_video_features(clip[:, 0]).grid.shape  # of an image
        torch.Size([1, 2, 4, 6, 32])
    """

    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"^predictor\.", r"^classifier\.", r"^pooler\."]
    embeddings_class = VJepaEmbeddings


class VJepaForPreTraining(VideoPreTrainingMixin, VJepaPreTrainedModel):
    """Context encoder, target encoder (`vjepa`) and predictor with the V-JEPA loss.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepaConfig, VJepaForPreTraining
        >>> model = VJepaForPreTraining(VJepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        ...     crop_size=32, patch_size=8, frames_per_clip=4, pred_hidden_size=24, pred_num_hidden_layers=1))
        >>> order = torch.randperm(32).unsqueeze(0)
        >>> out = model(torch.randn(1, 4, 3, 32, 32), context_mask=[order[:, :8], order[:, :4]],
        ...             target_mask=[order[:, 8:20], order[:, 4:]])
        >>> out.loss.backward()
        >>> model.update_target_encoder(0.998)
        >>> [tuple(prediction.shape) for prediction in out.predictions]
        [(1, 12, 32), (1, 28, 32)]
    """

    # Beside a 16-bit model the target encoder stays float32: its average would not move otherwise.
    _keep_in_fp32_modules_strict = ["vjepa"]

    def __init__(self, config: VJepaConfig):
        super().__init__(config)
        self.vjepa = VJepaModel(self.config)
        if self.config.has_target_encoder:
            self.context_encoder = VJepaModel(self.config)
        self.predictor = VJepaPredictor(self.config)
        self.post_init()

    def mask_token_of(self, group: int, mask: int) -> int:
        """Token i for mask i of every group."""
        return mask

    def regularization(self, predictions: list[list[torch.Tensor]]) -> torch.Tensor | None:
        """The variance term of the predictions, where the config asks for one."""
        if self.config.variance_weight == 0:
            return None
        std = torch.cat([prediction_std(group) for group in predictions])
        return self.config.variance_weight * variance_loss(std)


class VJepaForVideoClassification(VideoClassificationMixin, VJepaPreTrainedModel):
    """The encoder with the attentive classifier of the official probes: one query that attends to all tokens.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepaConfig, VJepaForVideoClassification
        >>> model = VJepaForVideoClassification(VJepaConfig(hidden_size=32, num_hidden_layers=2, num_labels=5,
        ...     num_attention_heads=2, crop_size=32, patch_size=8, frames_per_clip=4))
        >>> model(torch.randn(2, 4, 3, 32, 32)).logits.shape
        torch.Size([2, 5])
        >>> model(torch.randn(2, 8, 3, 4, 3, 32, 32)).logits.shape  # 8 segments in 3 views of each video
        torch.Size([2, 5])
    """

    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"^predictor\."]
    base_model_class = VJepaModel


__all__ = [
    "VJepaEmbeddings",
    "VJepaForPreTraining",
    "VJepaForVideoClassification",
    "VJepaModel",
    "VJepaPreTrainedModel",
    "VJepaPredictor",
]
