"""V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985): predict the embeddings of large blocks of a video from the rest.

Differs from V-JEPA: positions are rotary in every attention of encoder and predictor, and the predictor has a head
count of its own and one mask token per clip length. Modules are named as in native transformers, whose `VJEPA2Model`
holds the encoder and the predictor; there the target encoder is.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers.models.vjepa2.modeling_vjepa2 import (
    VJEPA2WithMaskedInputModelOutput,
    VJEPA2WithMaskedInputPredictorOutput,
)
from transformers.utils import can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults

from hf_jepa.core.clips import (
    ClipMasks,
    Clips,
    Grid,
    VideoFeatures,
    as_group_masks,
    as_groups,
    require_pairs,
)
from hf_jepa.core.modeling import JepaPreTrainedModel
from hf_jepa.core.video import VideoEncoderMixin, VideoPreTrainingMixin
from hf_jepa.core.video_classification import VideoClassificationMixin
from hf_jepa.core.video_networks import VideoPredictor, init_mask_tokens
from hf_jepa.layers.packed_transformer import PackedAttention, PackedTransformerLayer, Rotary
from hf_jepa.layers.packing import Packing
from hf_jepa.layers.patch_embedding import TubeletEmbedding, as_clips, pair
from hf_jepa.layers.rotary import grid_positions, rotary_tables
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config


logger = logging.get_logger(__name__)


def rotary_for(
    config: VJepa2Config, head_dim: int, indices: Sequence[torch.Tensor], grids: Sequence[Grid], packing: Packing
) -> Rotary:
    """The packed rotary tables of tokens, from their indices (B or 1, N) on the grids of their clips."""
    tables = []
    for index, grid in zip(indices, grids, strict=True):
        frame, row, column = grid_positions(index, grid)
        if config.rope_interpolation:
            row, column = (
                place * (config.rope_grid_size - 1) / max(1, extent - 1)
                for place, extent in zip((row, column), grid[1:], strict=True)
            )
        tables.append(rotary_tables((frame, row, column), head_dim, config.rope_layout))
    cos, sin = (packing.join([table.unsqueeze(2) for table in tables_]) for tables_ in zip(*tables, strict=True))
    return cos, sin


class VJepa2Embeddings(nn.Module):
    """Tubelets to tokens; positions enter in the attention."""

    def __init__(self, config: VJepa2Config):
        super().__init__()
        self.config = config
        self.patch_embeddings = TubeletEmbedding(
            config.in_chans, config.hidden_size, config.tubelet_size, pair(config.patch_size)
        )

    def clips(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W); an image, or a clip of one frame, becomes a static clip of one tubelet."""
        return as_clips(pixel_values_videos, self.config.in_chans, static_frames=self.config.tubelet_size)

    def grid_size(self, clips: torch.Tensor) -> Grid:
        return self.patch_embeddings.grid_size(clips)

    def forward(self, clips: torch.Tensor, masks: Sequence[torch.Tensor] | None) -> list[torch.Tensor]:
        """(B, T, C, H, W) -> [(B, N, D)], or one (B, K_i, D) per mask."""
        return self.patch_embeddings(clips, masks)


class VJepa2PredictorEmbeddings(nn.Module):
    """Context tokens to the predictor's width, and the learnt mask tokens."""

    def __init__(self, config: VJepa2Config):
        super().__init__()
        self.predictor_embeddings = nn.Linear(config.hidden_size, config.pred_hidden_size)
        self.mask_tokens = nn.Parameter(torch.zeros(config.pred_num_mask_tokens, 1, 1, config.pred_hidden_size))

    def forward(self, context: torch.Tensor, num_targets: int, mask_index: int) -> torch.Tensor:
        """(B, N, D) -> (B, N + num_targets, P): the context, then mask tokens."""
        x = self.predictor_embeddings(context)
        queries = self.mask_tokens[mask_index % len(self.mask_tokens)].to(x.dtype)
        return torch.cat([x, queries.expand(len(x), num_targets, -1)], dim=1)


class VJepa2Predictor(VideoPredictor):
    """A narrow transformer that fills mask tokens at target positions from the encoded context.

    The official code sorts context and mask tokens by position. Attention with rotary positions does not depend on
    the order of its tokens, so they are left as they are, and the last layer computes the targets alone.

    Args:
        config: its `pred_*` fields size the predictor.

    Example:
        >>> from hf_jepa import VJepa2Config, VJepa2Predictor
        >>> config = VJepa2Config(hidden_size=32, num_attention_heads=2, pred_hidden_size=24,
        ...                       pred_num_attention_heads=2, pred_num_hidden_layers=1)
        >>> context_mask, target_mask = torch.tensor([[0, 1, 4]]), torch.tensor([[10, 11]])
        >>> (predictions,) = VJepa2Predictor(config)(
        ...     [torch.randn(1, 3, 32)], [context_mask], [target_mask], [(2, 4, 4)], [0])
        >>> predictions.shape
        torch.Size([1, 2, 32])
    """

    embeddings_class = VJepa2PredictorEmbeddings

    def embed(self, context, context_mask, target_mask, grid_size, mask_index):
        """The context, then mask tokens, without positions: these enter in the attention."""
        return self.embeddings(context, target_mask.shape[1], mask_index)

    def rotary(self, indices: Sequence[torch.Tensor], grids: Sequence[Grid], packing: Packing) -> Rotary:
        return rotary_for(self.config, self.layer[0].attention.head_dim, indices, grids, packing)


class VJepa2PreTrainedModel(JepaPreTrainedModel):
    """Flags and initialisation of all V-JEPA 2 classes."""

    config: VJepa2Config
    base_model_prefix = "vjepa2"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    _no_split_modules = ["VJepa2Embeddings", "VJepa2PredictorEmbeddings", "PackedTransformerLayer"]
    _can_record_outputs = {"hidden_states": PackedTransformerLayer, "attentions": PackedAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, VJepa2PredictorEmbeddings):
            init_mask_tokens(module.mask_tokens, self.config)


class VJepa2Encoder(VideoEncoderMixin, VJepa2PreTrainedModel):
    """The V-JEPA 2 encoder: a ViT over tubelets with rotary positions that can be shown part of a clip.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepa2Config, VJepa2Encoder
        >>> encoder = VJepa2Encoder(VJepa2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        ...                                      crop_size=32, patch_size=8, frames_per_clip=4)).eval()
        >>> clip = torch.randn(1, 4, 3, 32, 32)
        >>> encoder(clip).last_hidden_state.shape
        torch.Size([1, 32, 32])
        >>> masks = [torch.tensor([[0, 5, 9]]), torch.tensor([[3, 4]])]
        >>> [tokens.shape[1] for tokens in encoder(clip, context_mask=masks).last_hidden_state]
        [3, 2]
    """

    _keys_to_ignore_on_load_unexpected = [
        r"^context_encoder\.",
        r"^(\w+\.)?predictor\.",
        r"^(\w+_)?classifier\.",
        r"^pooler\.",
    ]
    embeddings_class = VJepa2Embeddings

    @classmethod
    def from_pretrained(cls, *args, key_mapping: dict[str, str] | None = None, **kwargs):
        """Load an encoder by itself, or that of any checkpoint which holds one: the target encoder of a pretraining
        checkpoint, the encoder of a base model or of a classifier, ours or native."""
        within = {rf"^({cls.base_model_prefix}\.)?encoder\.": ""}
        return super().from_pretrained(*args, key_mapping=within | (key_mapping or {}), **kwargs)

    def rotary(self, indices: Sequence[torch.Tensor], grids: Sequence[Grid], packing: Packing) -> Rotary:
        return rotary_for(self.config, self.layer[0].attention.head_dim, indices, grids, packing)


class VJepa2Model(VJepa2PreTrainedModel):
    """Encoder and predictor of V-JEPA 2, as in native `VJEPA2Model`; the predictor runs only when it is asked for.

    Unlike in the native class, `context_mask` hides the other tokens from the encoder, there may be several masks, and
    positions are right for clips of any size.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepa2Config, VJepa2Model
        >>> model = VJepa2Model(VJepa2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, crop_size=32,
        ...     patch_size=8, frames_per_clip=4, pred_hidden_size=24, pred_num_attention_heads=2,
        ...     pred_num_hidden_layers=1)).eval()
        >>> clip = torch.randn(1, 4, 3, 32, 48)
        >>> model(clip).last_hidden_state.shape
        torch.Size([1, 48, 32])
        >>> model.get_video_features(clip).grid.shape
        torch.Size([1, 2, 4, 6, 32])
        >>> future = torch.arange(48, 72).unsqueeze(0)  # the next two frames
        >>> model(clip, target_mask=future).predictor_output.last_hidden_state.shape
        torch.Size([1, 24, 32])
    """

    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"^(\w+_)?classifier\.", r"^pooler\."]
    encoder_class = VJepa2Encoder
    predictor_class = VJepa2Predictor

    def __init__(self, config: VJepa2Config):
        super().__init__(config)
        self.encoder = self.encoder_class(self.config)
        self.predictor = self.predictor_class(self.config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def token_grid(self, pixel_values_videos: torch.Tensor) -> Grid:
        """(frames, rows, columns) of the tokens of clips (B, T, C, H, W) or images (B, C, H, W)."""
        return self.encoder.token_grid(pixel_values_videos)

    def get_video_features(self, pixel_values_videos: torch.Tensor, layers: Sequence[int] = ()) -> VideoFeatures:
        """Features in the shape of the clips, see `VJepa2Encoder.get_video_features`."""
        return self.encoder.get_video_features(pixel_values_videos, layers)

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self,
        pixel_values_videos: Clips,
        context_mask: ClipMasks | None = None,
        target_mask: ClipMasks | None = None,
        mask_index: int = 1,
        skip_predictor: bool = False,
        **kwargs,
    ) -> VJEPA2WithMaskedInputModelOutput:
        """Encode clips, or their visible parts, and predict others where they are named.

        Args:
            pixel_values_videos: (B, T, C, H, W), images (B, C, H, W), or a list of such groups.
            context_mask: token indices that the encoder sees, see `VJepa2Encoder`; everything when unset.
            target_mask: token indices to predict, one mask for each context. Indices beyond the grid lie in the
                future: with S tokens per frame pair, `N + S * k + 0 ... S - 1` is pair k after the clip.
            mask_index: the learnt mask token. Native classes and the official protocols use 1; pretraining on clips of
                one length trains token 0 alone, so for such models pass 0.
            skip_predictor: predict nothing, as callers of the native class ask for.

        Returns:
            `last_hidden_state` as the encoder's; with a `target_mask` also `predictor_output.last_hidden_state`
            (B, K, D), or a tuple of such tensors ordered (group, mask).
        """
        encoded = self.encoder(pixel_values_videos, context_mask=context_mask, **kwargs, return_dict=True)
        predictor_output = None
        if target_mask is not None and not skip_predictor:
            predictor_output = VJEPA2WithMaskedInputPredictorOutput(
                last_hidden_state=self._predict(encoded, pixel_values_videos, context_mask, target_mask, mask_index)
            )
        return VJEPA2WithMaskedInputModelOutput(
            last_hidden_state=encoded.last_hidden_state,
            masked_hidden_state=None if context_mask is None else encoded.last_hidden_state,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            predictor_output=predictor_output,
        )

    def _predict(self, encoded, clips: Clips, context_mask, target_mask, mask_index: int):
        groups, tokens = as_groups(clips), encoded.last_hidden_state
        parts = [tokens] if isinstance(tokens, torch.Tensor) else list(tokens)
        *pairs, owner = self._pairs(parts, groups, context_mask, target_mask)
        grids = [self.token_grid(groups[g]) for g in owner]
        predictions = self.predictor(*pairs, grids, [mask_index] * len(owner))
        return predictions[0] if isinstance(target_mask, torch.Tensor) else predictions

    def _pairs(self, parts, groups, context_mask, target_mask):
        """Encoded tokens, their context mask and target mask, and the group, of every prediction."""
        targets = as_group_masks(target_mask, groups, "target_mask")
        if context_mask is None:
            contexts = [
                [torch.arange(part.shape[1], device=part.device).expand(len(part), -1)] * len(group_targets)
                for part, group_targets in zip(parts, targets, strict=True)
            ]
            parts = [part for part, group in zip(parts, targets, strict=True) for _ in group]
        else:
            contexts = as_group_masks(context_mask, groups, "context_mask")
        require_pairs(contexts, targets)
        flat = [[mask for group in masks for mask in group] for masks in (contexts, targets)]
        return parts, *flat, [g for g, masks in enumerate(targets) for _ in masks]


class VJepa2ForPreTraining(VideoPreTrainingMixin, VJepa2PreTrainedModel):
    """Context encoder, target encoder and predictor (both in `vjepa2`) with the V-JEPA 2 loss.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepa2Config, VJepa2ForPreTraining
        >>> model = VJepa2ForPreTraining(VJepa2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        ...     crop_size=32, patch_size=8, frames_per_clip=4, pred_hidden_size=24, pred_num_attention_heads=2,
        ...     pred_num_hidden_layers=1))
        >>> order = torch.randperm(32).unsqueeze(0)
        >>> out = model(torch.randn(1, 4, 3, 32, 32), context_mask=[order[:, :8], order[:, :4]],
        ...             target_mask=[order[:, 8:20], order[:, 4:]])
        >>> out.loss.backward()
        >>> model.update_target_encoder(0.999)
        >>> [tuple(prediction.shape) for prediction in out.predictions]
        [(1, 12, 32), (1, 28, 32)]
    """

    # Beside a 16-bit model the target encoder stays float32: its average would not move otherwise.
    _keep_in_fp32_modules_strict = ["vjepa2.encoder"]
    target_encoder_name = "vjepa2.encoder"
    predictor_name = "vjepa2.predictor"
    base_model_class = VJepa2Model

    def __init__(self, config: VJepa2Config):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.base_model_class(self.config))
        if self.config.has_target_encoder:
            self.context_encoder = self.base_model_class.encoder_class(self.config)
        self.post_init()

    @property
    def predictor(self) -> VJepa2Predictor:
        """Predicts targets from contexts."""
        return self.base_model.predictor

    def mask_token_of(self, group: int, mask: int) -> int:
        """Token g for all masks of group g, as the official training with several clip lengths does."""
        return group


class VJepa2ForVideoClassification(VideoClassificationMixin, VJepa2PreTrainedModel):
    """The encoder with an attentive classifier on its tokens, under the names of the native class.

    `num_pooler_layers`, `pooler_num_attention_heads` and `pooler_layer_norm_eps` of the config are those of the
    official probes (3, 16 and 1e-5, whatever the encoder), so that converted probes are the same function; the native
    class takes the encoder's heads and epsilon instead. `classifier_layers` are the encoder's layers whose tokens are
    read, the last one alone when unset.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepa2Config, VJepa2ForVideoClassification
        >>> model = VJepa2ForVideoClassification(VJepa2Config(hidden_size=32, num_hidden_layers=2,
        ...     num_attention_heads=2, crop_size=32, patch_size=8, frames_per_clip=4, pred_num_hidden_layers=1,
        ...     num_labels=5, classifier_layers=[0, 1]))
        >>> model(torch.randn(2, 4, 3, 32, 32)).logits.shape
        torch.Size([2, 5])
        >>> model(torch.randn(2, 8, 3, 4, 3, 32, 32)).logits.shape  # 8 segments in 3 views of each video
        torch.Size([2, 5])
    """

    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\."]
    base_model_class = VJepa2Model

    def save_pretrained(self, *args, **kwargs):
        """Save; says where stock `AutoModelForVideoClassification` would compute something else from the files."""
        config = self.config
        native = {
            "pooler_num_attention_heads": config.num_attention_heads,
            "pooler_layer_norm_eps": config.layer_norm_eps,
            "classifier_layers": None,
        }
        unlike = [
            f"{name} {getattr(config, name)}" for name, value in native.items() if getattr(config, name) != value
        ]
        if unlike and self.base_model_prefix == "vjepa2":
            logger.warning_once(
                f"load this classifier by {type(self).__name__}: the stock class does not know its {', '.join(unlike)}"
            )
        return super().save_pretrained(*args, **kwargs)


__all__ = [
    "VJepa2Embeddings",
    "VJepa2Encoder",
    "VJepa2ForPreTraining",
    "VJepa2ForVideoClassification",
    "VJepa2Model",
    "VJepa2PreTrainedModel",
    "VJepa2Predictor",
]
