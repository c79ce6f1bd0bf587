"""What the encoders and the pretraining models of all video variants do alike: groups of clips, masks, features.

Several masks and clip lengths are one pass of every network, see `Packing`. A variant adds its embeddings, its layers
and what positions mean to them.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hf_jepa.core.clips import (
    ClipMasks,
    Clips,
    Grid,
    VideoEncoderOutput,
    VideoFeatures,
    as_group_masks,
    as_groups,
    layer_indices,
    require_pairs,
)
from hf_jepa.core.modeling import JepaPreTrainingMixin, runtime_options
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.core.regularization import sigreg_term
from hf_jepa.core.video_configuration import VideoConfigMixin
from hf_jepa.core.video_networks import transformer_layers
from hf_jepa.layers.packed_transformer import Rotary
from hf_jepa.layers.packing import Packing
from hf_jepa.layers.tokens import take_tokens
from hf_jepa.losses.prediction import normalize_targets, prediction_loss


class VideoEncoderMixin:
    """The forward of an encoder of clips, and its features.

    A class that mixes this in names its `embeddings_class`, with `clips`, `grid_size` and a forward that takes masks.
    One whose attention turns queries and keys overrides `rotary`.

    Example:
        >>> from hf_jepa import VJepa2Encoder
        >>> issubclass(VJepa2Encoder, VideoEncoderMixin)
        True
    """

    embeddings_class: ClassVar[type[nn.Module]]

    def __init__(self, config: VideoConfigMixin):
        super().__init__(config)
        config = self.config
        self.embeddings = self.embeddings_class(config)
        self.layer = transformer_layers(
            config, config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.mlp_ratio
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.add_parts()
        self.post_init()

    def add_parts(self) -> None:
        """What a variant has beside embeddings, layers and final norm: nothing."""

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings.proj

    def token_grid(self, pixel_values_videos: torch.Tensor) -> Grid:
        """(frames, rows, columns) of the tokens of clips (B, T, C, H, W) or images (B, C, H, W)."""
        return self.embeddings.grid_size(self.embeddings.clips(pixel_values_videos))

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values_videos: Clips,
        context_mask: ClipMasks | None = None,
        levels: Sequence[int] = (),
        **kwargs,
    ) -> VideoEncoderOutput:
        """Encode clips, or the visible parts of them.

        Args:
            pixel_values_videos: (B, T, C, H, W), images (B, C, H, W), or a list of such groups of any sizes.
            context_mask: LongTensor (B, K) of token indices to keep, row-major over (time, height, width), or a list
                of such tensors of any lengths; for several groups a list of lists. Tokens are dropped before the first
                layer and keep the order of the mask. All masks of all groups are encoded in one pass.
            levels: layers whose tokens are wanted too, counted from 0 or from the end by negative numbers.

        Returns:
            `last_hidden_state` (B, N, D) or (B, K, D), and one such tensor for each of the `levels`. For a list of
            masks or groups these are tuples of tensors, ordered (group, mask).

        Raises:
            TypeError: an argument that the model does not know.
            ValueError: clips that do not divide into tubelets, an unusable mask, a layer that does not exist.
        """
        kwargs = runtime_options(self, kwargs)
        levels = layer_indices(levels, len(self.layer))
        groups = [self.embeddings.clips(group) for group in as_groups(pixel_values_videos)]
        masks = [None] * len(groups) if context_mask is None else as_group_masks(context_mask, groups, "context_mask")
        parts, indices, grids = [], [], []
        for group, group_masks in zip(groups, masks, strict=True):
            parts += self.embeddings(group, group_masks)
            everything = [torch.arange(parts[-1].shape[1], device=group.device).unsqueeze(0)]
            indices += everything if group_masks is None else group_masks
            grids += [self.embeddings.grid_size(group)] * len(group_masks or everything)
        packing = Packing([part.shape[:2] for part in parts])
        rotary = self.rotary(indices, grids, packing)
        hidden_states, kept = packing.join(parts), {}
        for index, layer in enumerate(self.layer):
            hidden_states = layer(hidden_states, packing, rotary=rotary, **kwargs)
            if index in levels:
                kept[index] = packing.split(self.normed(hidden_states, index))
        last = packing.split(self.normed(hidden_states, len(self.layer) - 1))
        alone = isinstance(pixel_values_videos, torch.Tensor) and isinstance(context_mask, torch.Tensor | None)
        last, *chosen = (split[0] if alone else tuple(split) for split in (last, *(kept[index] for index in levels)))
        return VideoEncoderOutput(last_hidden_state=last, levels=tuple(chosen) if levels else None)

    def rotary(self, indices: Sequence[torch.Tensor], grids: Sequence[Grid], packing: Packing) -> Rotary | None:
        """What the attention turns tokens by, from their indices (B or 1, N) on the grids of their clips: nothing."""
        return None

    def normed(self, hidden_states: torch.Tensor, index: int) -> torch.Tensor:
        """The output of layer `index` behind the final norm."""
        return self.layernorm(hidden_states)

    def get_video_features(self, pixel_values_videos: torch.Tensor, layers: Sequence[int] = ()) -> VideoFeatures:
        """Features in the shape of the clips, of the last layer and of others.

        Args:
            pixel_values_videos: (B, T, C, H, W) or images (B, C, H, W).
            layers: layers wanted beside the last, counted from 0 or from the end by negative numbers.

        Returns:
            `grid` (B, T', H', W', D), `pooled` (B, D), `layers`, one grid each, all behind the final norm.

        Raises:
            ValueError: a layer that does not exist.
        """
        grid = self.token_grid(pixel_values_videos)
        encoded = self(pixel_values_videos, levels=layers, return_dict=True)
        return VideoFeatures(
            grid=encoded.last_hidden_state.unflatten(1, grid),
            pooled=encoded.last_hidden_state.mean(dim=1),
            layers=tuple(level.unflatten(1, grid) for level in encoded.levels or ()),
        )


class VideoPreTrainingMixin(JepaPreTrainingMixin):
    """The forward of a pretraining model of clips: every target is predicted from the context it is paired with.

    Example:
        >>> from hf_jepa import VJepa2ForPreTraining
        >>> issubclass(VJepa2ForPreTraining, VideoPreTrainingMixin)
        True
    """

    def mask_token_of(self, group: int, mask: int) -> int:
        """The learnt mask token that stands for the targets of a pair."""
        raise NotImplementedError(f"{type(self).__name__} does not say which mask token a pair of masks uses")

    def regularization(self, predictions: list[list[torch.Tensor]]) -> torch.Tensor | None:
        """A term that is added to the prediction loss, from the predictions of every group: none."""
        return None

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self,
        pixel_values_videos: Clips,
        context_mask: ClipMasks,
        target_mask: ClipMasks,
        step: int | None = None,
        **kwargs,
    ) -> JepaForPreTrainingOutput:
        """One prediction of every target from the context it is paired with.

        Args:
            pixel_values_videos: (B, T, C, H, W), or a list of groups of clips of one length each.
            context_mask: M LongTensors (B, N_i) of the tokens the context encoder may see; for several groups a list
                of such lists.
            target_mask: M LongTensors (B, K_i) of the tokens to predict from context i.
            step: number of the optimizer step, which training with `sigreg_weight` needs.

        Returns:
            `JepaForPreTrainingOutput`; `predictions`, `targets` (B, K_i, D) and `context` (B, N_i, D) are tuples
            ordered (group, mask). The loss is the mean over these of the mean over all their elements.
        """
        groups = as_groups(pixel_values_videos)
        contexts = as_group_masks(context_mask, groups, "context_mask")
        targets = as_group_masks(target_mask, groups, "target_mask")
        require_pairs(contexts, targets)
        # First: it needs memory that the others' activations take later.
        with self.learning_from_targets():
            encoded = self.target_encoder(groups, return_dict=True).last_hidden_state
        wanted = self._of_masks(encoded, targets)
        terms = [] if self.config.has_target_encoder else [sigreg_term(self, encoded, step)]
        context = self.context_encoder(groups, context_mask=contexts, **kwargs, return_dict=True)
        pairs = [(g, i) for g, masks in enumerate(targets) for i in range(len(masks))]
        grids = [self.context_encoder.token_grid(group) for group in groups]
        predictions = self.predictor(
            context.last_hidden_state,
            [contexts[g][i] for g, i in pairs],
            [targets[g][i] for g, i in pairs],
            [grids[g] for g, _ in pairs],
            [self.mask_token_of(g, i) for g, i in pairs],
        )
        losses = [prediction_loss(*pair, self.config.loss_type) for pair in zip(predictions, wanted, strict=True)]
        loss = torch.stack(losses).mean()
        rest = iter(predictions)
        terms.append(self.regularization([[next(rest) for _ in masks] for masks in targets]))
        terms = [term for term in terms if term is not None]
        regularization = torch.stack(terms).sum() if terms else None
        return JepaForPreTrainingOutput(
            loss=loss if regularization is None else loss + regularization,
            prediction_loss=loss,
            regularization_loss=regularization,
            predictions=predictions,
            targets=tuple(x.detach() for x in wanted),
            context=context.last_hidden_state,
            hidden_states=context.hidden_states,
            attentions=context.attentions,
        )

    @torch.no_grad()
    def encode_targets(self, pixel_values_videos: Clips, target_mask: ClipMasks) -> tuple[torch.Tensor, ...]:
        """Normalised target embeddings of each mask's tokens, (B, K_i, D) each, ordered (group, mask)."""
        groups = as_groups(pixel_values_videos)
        masks = as_group_masks(target_mask, groups, "target_mask")
        return self._of_masks(self.target_encoder(groups, return_dict=True).last_hidden_state, masks)

    def _of_masks(self, encoded: Sequence[torch.Tensor], masks: list[list[torch.Tensor]]) -> tuple[torch.Tensor, ...]:
        """Normalised tokens of each mask, from what the encoder says of whole clips, (B, N, D) for every group."""
        if self.config.target_source != "shared":
            encoded = [tokens.detach() for tokens in encoded]
        normed = [normalize_targets(tokens, self.config.target_normalization) for tokens in encoded]
        return tuple(take_tokens(x, mask) for x, group in zip(normed, masks, strict=True) for mask in group)


__all__ = ["VideoEncoderMixin", "VideoPreTrainingMixin"]
