"""V-JEPA 2.1 (Mur-Labadia et al. 2026, arXiv 2603.14482): dense features by predicting visible tokens as well.

Differs from V-JEPA 2: images have a tokenizer of their own and both modalities a learnt vector, several layers of the
encoder are features behind norms of their own, the predictor reads and predicts all of these, and does so for the
tokens that are visible, too. Rotary positions are true rotations, stretched to one range at every resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults

from hf_jepa.core.clips import (
    ClipMasks,
    Clips,
    Grid,
    VideoEncoderOutput,
    as_group_masks,
    as_groups,
    layer_indices,
    require_pairs,
)
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.layers.tokens import take_tokens
from hf_jepa.losses.context import context_distance, context_loss
from hf_jepa.losses.prediction import normalize_targets, prediction_loss
from hf_jepa.models.vjepa2.modeling_vjepa2 import (
    VJepa2Encoder,
    VJepa2ForPreTraining,
    VJepa2ForVideoClassification,
    VJepa2Model,
    VJepa2PreTrainedModel,
)
from hf_jepa.models.vjepa2_1.configuration_vjepa2_1 import VJepa21Config
from hf_jepa.models.vjepa2_1.parts_vjepa2_1 import (
    ModalityEmbedding,
    VJepa21Embeddings,
    VJepa21Predictor,
    side_by_side,
)


class MaskPairs(NamedTuple):
    """Of every pair of masks, ordered (group, mask): the masks, and what `VJepa21Predictor` is told beside them."""

    context_mask: list[torch.Tensor]
    target_mask: list[torch.Tensor]
    grid_sizes: list[Grid]
    mask_index: list[int]
    is_image: list[bool]


@dataclass
class VJepa21ForPreTrainingOutput(JepaForPreTrainingOutput):
    """Output of `VJepa21ForPreTraining`: `predictions` and so on are tuples ordered (group, mask).

    Args:
        regularization_loss: the loss at the visible tokens as it counts in `loss`: weighted, and scaled by the call.
        context_loss: the same before weight and scale; None where visible tokens are not predicted.
        context_predictions, context_targets: (B, N_i, L * D), what it compares.
        others: see `JepaForPreTrainingOutput`; `context` holds the levels of the context encoder, (B, N_i, L * D).

    Example:
        >>> VJepa21ForPreTrainingOutput(loss=torch.tensor(0.5)).context_loss is None
        True
    """

    context_loss: torch.FloatTensor | None = None
    context_predictions: tuple[torch.FloatTensor, ...] | None = None
    context_targets: tuple[torch.FloatTensor, ...] | None = None


class VJepa21PreTrainedModel(VJepa2PreTrainedModel):
    """Flags and initialisation of all V-JEPA 2.1 classes."""

    config: VJepa21Config
    base_model_prefix = "vjepa2_1"
    input_modalities = ("video", "image")
    _no_split_modules = ["VJepa21Embeddings", "VJepa21PredictorEmbeddings", "PackedTransformerLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, ModalityEmbedding):
            init.normal_(module.video, std=1e-6)
            init.normal_(module.image, std=1e-6)


class VJepa21Encoder(VJepa21PreTrainedModel, VJepa2Encoder):
    """The V-JEPA 2.1 encoder: clips and images, each group by its own tokenizer, in one pass.

    Its features are some layers, the levels, each behind its own norm: `layernorm` is that of the last one.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepa21Config, VJepa21Encoder
        >>> encoder = VJepa21Encoder(VJepa21Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        ...     levels=[0, 1], crop_size=32, patch_size=8, frames_per_clip=4)).eval()
        >>> clip, image = torch.randn(1, 4, 3, 32, 32), torch.randn(1, 3, 32, 48)
        >>> [tokens.shape[1] for tokens in encoder([clip, image]).last_hidden_state]
        [32, 24]
        >>> encoder.get_video_features(image, layers=[0]).layers[0].shape
        torch.Size([1, 1, 4, 6, 32])
    """

    config: VJepa21Config
    embeddings_class = VJepa21Embeddings

    def add_parts(self) -> None:
        dim, eps = self.config.hidden_size, self.config.layer_norm_eps
        self.level_layernorms = nn.ModuleList(nn.LayerNorm(dim, eps=eps) for _ in self.config.level_indices[:-1])

    def normed(self, hidden_states: torch.Tensor, index: int) -> torch.Tensor:
        """The output of layer `index`, a level, behind its norm."""
        return [*self.level_layernorms, self.layernorm][self.config.level_indices.index(index)](hidden_states)

    def is_image(self, pixel_values_videos: torch.Tensor) -> bool:
        """Whether a group goes through the tokenizer of images: (B, C, H, W) or clips of one frame."""
        return self.embeddings.clips(pixel_values_videos).shape[1] == 1

    def forward(
        self,
        pixel_values_videos: Clips,
        context_mask: ClipMasks | None = None,
        levels: Sequence[int] = (),
        **kwargs,
    ) -> VideoEncoderOutput:
        """Encode clips and images, or the visible parts of them: see `VJepa2Encoder.forward`.

        Args:
            pixel_values_videos: clips (B, T, C, H, W), images (B, C, H, W) or (B, 1, C, H, W), or a list of such
                groups of any sizes.
            context_mask: token indices to keep.
            levels: which of `config.level_indices` are wanted beside the last hidden state.

        Raises:
            ValueError: a layer that is no level.
        """
        levels = layer_indices(levels, len(self.layer))
        if wrong := [index for index in levels if index not in self.config.level_indices]:
            raise ValueError(
                f"layers {wrong} are not among the levels {list(self.config.level_indices)}: only those have norms "
                "(the raw outputs of all layers are given by output_hidden_states=True)"
            )
        return super().forward(pixel_values_videos, context_mask, levels, **kwargs)


class VJepa21Model(VJepa21PreTrainedModel, VJepa2Model):
    """Encoder and predictor of V-JEPA 2.1; the predictor runs only when it is asked for.

    Takes what `VJepa2Model` takes. Predictions have the levels side by side, (B, K, `config.pred_output_size`), the
    last level in the last channels.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepa21Config, VJepa21Model
        >>> model = VJepa21Model(VJepa21Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        ...     levels=[0, 1], crop_size=32, patch_size=8, frames_per_clip=4, pred_hidden_size=24,
        ...     pred_num_attention_heads=2, pred_num_hidden_layers=1)).eval()
        >>> clip = torch.randn(1, 4, 3, 32, 48)
        >>> model.get_video_features(clip, layers=model.config.level_indices).layers[0].shape
        torch.Size([1, 2, 4, 6, 32])
        >>> future = torch.arange(48, 72).unsqueeze(0)  # the next two frames
        >>> model(clip, target_mask=future).predictor_output.last_hidden_state.shape
        torch.Size([1, 24, 64])
    """

    config: VJepa21Config
    encoder_class = VJepa21Encoder
    predictor_class = VJepa21Predictor

    def forward(
        self,
        pixel_values_videos: Clips,
        context_mask: ClipMasks | None = None,
        target_mask: ClipMasks | None = None,
        mask_index: int = 1,
        skip_predictor: bool = False,
        **kwargs,
    ):
        """Encode clips or images, and predict where targets are named: see `VJepa2Model.forward`."""
        if target_mask is not None and not skip_predictor:
            kwargs["levels"] = self.config.pred_levels
        return super().forward(pixel_values_videos, context_mask, target_mask, mask_index, skip_predictor, **kwargs)

    def _predict(self, encoded, clips: Clips, context_mask, target_mask, mask_index: int):
        groups, alone = as_groups(clips), isinstance(encoded.last_hidden_state, torch.Tensor)
        parts = side_by_side([[level] for level in encoded.levels] if alone else encoded.levels)
        *pairs, owner = self._pairs(parts, groups, context_mask, target_mask)
        grids = [self.token_grid(groups[g]) for g in owner]
        is_image = [self.encoder.is_image(groups[g]) for g in owner]
        predictions, _ = self.predictor(*pairs, grids, [mask_index] * len(owner), is_image)
        return predictions[0] if isinstance(target_mask, torch.Tensor) else predictions


class VJepa21ForPreTraining(VJepa21PreTrainedModel, VJepa2ForPreTraining):
    """Context encoder, target encoder and predictor (both in `vjepa2_1`) with the V-JEPA 2.1 loss.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepa21Config, VJepa21ForPreTraining
        >>> model = VJepa21ForPreTraining(VJepa21Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        ...     levels=[0, 1], crop_size=32, patch_size=8, frames_per_clip=4, pred_hidden_size=24,
        ...     pred_num_attention_heads=2, pred_num_hidden_layers=1))
        >>> clips, images = torch.randn(1, 4, 3, 32, 32), torch.randn(1, 3, 32, 32)
        >>> order = torch.randperm(16).unsqueeze(0)
        >>> context_mask = [[order[:, :4], order[:, :7]], [order[:, :5]]]
        >>> target_mask = [[order[:, 4:], order[:, 7:]], [order[:, 5:]]]
        >>> out = model([clips, images], context_mask, target_mask, context_loss_scale=0.1)
        >>> out.loss.backward()
        >>> model.update_target_encoder(0.999)
        >>> [tuple(prediction.shape) for prediction in out.predictions]
        [(1, 12, 64), (1, 9, 64), (1, 11, 64)]
    """

    config: VJepa21Config
    # Beside a 16-bit model the target encoder stays float32: its average would not move otherwise.
    _keep_in_fp32_modules_strict = ["vjepa2_1.encoder"]
    target_encoder_name = "vjepa2_1.encoder"
    predictor_name = "vjepa2_1.predictor"
    base_model_class = VJepa21Model

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self,
        pixel_values_videos: Clips,
        context_mask: ClipMasks,
        target_mask: ClipMasks,
        context_loss_scale: float | torch.Tensor = 1.0,
        **kwargs,
    ) -> VJepa21ForPreTrainingOutput:
        """Predict every target from the context it is paired with, and that context as well.

        Args:
            pixel_values_videos: clips (B, T, C, H, W), images (B, C, H, W) or (B, 1, C, H, W), or a list of such
                groups. A group uses the mask token of its number among the groups of its modality.
            context_mask, target_mask: see `VJepa2ForPreTraining`.
            context_loss_scale: multiplies the weights of the context loss, for a schedule: the official one rises
                from 0 to 1 between steps 15,000 and 30,000. A tensor does not make a compiled model compile again.

        Returns:
            `VJepa21ForPreTrainingOutput`, its tuples ordered (group, mask). A loss is the mean over the pairs of one
            modality; a batch of both weighs the two by `config.image_loss_weight`.

            Parameters of a modality that is not in the batch get no gradient, so that AdamW leaves them alone, as in
            the official training; DDP needs `find_unused_parameters` then, or batches of both.

        Raises:
            ValueError: a config with heads of a teacher's width, see also `VJepa2Encoder`.
        """
        self._require_own_width()
        config = self.config
        groups = as_groups(pixel_values_videos)
        contexts = as_group_masks(context_mask, groups, "context_mask")
        targets = as_group_masks(target_mask, groups, "target_mask")
        require_pairs(contexts, targets)
        encoded = self.context_encoder(
            groups, context_mask=contexts, levels=config.pred_levels, **kwargs, return_dict=True
        )
        context = tuple(side_by_side(encoded.levels))
        pairs = self._pairs(groups, contexts, targets)
        predictions, visible = self.predictor(context, *pairs, predict_context=config.predict_context)

        wanted_context, wanted = self._wanted(groups, contexts, targets)
        losses = [prediction_loss(*each, config.loss_type) for each in zip(predictions, wanted, strict=True)]
        prediction, weighted, plain = self._mean(losses, pairs.is_image), None, None
        if visible is not None:
            plain, weighted = self._context_losses(visible, wanted_context, pairs)
            weighted = weighted * context_loss_scale
        return VJepa21ForPreTrainingOutput(
            loss=prediction if weighted is None else prediction + weighted,
            prediction_loss=prediction,
            regularization_loss=weighted,
            context_loss=plain,
            predictions=predictions,
            targets=wanted,
            context_predictions=visible,
            context_targets=None if visible is None else wanted_context,
            context=context,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _require_own_width(self) -> None:
        """Refuse heads of a teacher's width: there is nothing here that is so wide."""
        width, own = self.config.teacher_hidden_size, self.config.hidden_size
        if width not in (None, own):
            raise ValueError(
                f"this predictor gives features of a teacher of width {width}, so it cannot be trained on an encoder "
                f"of width {own}. To go on without the teacher, load the model with teacher_hidden_size=None and "
                "ignore_mismatched_sizes=True: its heads start afresh"
            )

    def _pairs(
        self, groups: list[torch.Tensor], contexts: list[list[torch.Tensor]], targets: list[list[torch.Tensor]]
    ) -> MaskPairs:
        """The pairs of masks of all groups, with what their groups say about them."""
        owner = [g for g, masks in enumerate(targets) for _ in masks]  # the group of every pair
        image = [self.context_encoder.is_image(group) for group in groups]
        number = [image[:g].count(image[g]) for g in range(len(groups))]  # of a group within its modality
        grids = [self.context_encoder.token_grid(group) for group in groups]
        return MaskPairs(
            context_mask=[mask for masks in contexts for mask in masks],
            target_mask=[mask for masks in targets for mask in masks],
            grid_sizes=[grids[g] for g in owner],
            mask_index=[number[g] for g in owner],
            is_image=[image[g] for g in owner],
        )

    def _wanted(
        self, groups: list[torch.Tensor], contexts: list[list[torch.Tensor]], targets: list[list[torch.Tensor]]
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """What the target encoder says of the tokens of every context and of every target, ordered (group, mask)."""
        wanted = self._targets(groups, [[*c, *t] for c, t in zip(contexts, targets, strict=True)])
        by_group = list(zip(wanted, map(len, contexts), strict=True))
        of_contexts = tuple(x for group, count in by_group for x in group[:count])
        return of_contexts, tuple(x for group, count in by_group for x in group[count:])

    def _context_losses(
        self, visible: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], pairs: MaskPairs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss at the visible tokens, plain and weighted."""
        config, plain, weighted = self.config, [], []
        for found, expected, *masks, _, image in zip(visible, wanted, *pairs, strict=True):
            distance = context_distance(*masks) if config.context_loss_distance else None
            plain.append(context_loss(found, expected, config.loss_type, distance))
            weighted.append(self._context_weight(image) * plain[-1])
        return self._mean(plain, pairs.is_image), self._mean(weighted, pairs.is_image)

    def train_one_modality(self, images: bool) -> None:
        """Freeze what only the other modality would train, for a run that has but one of them.

        Without a gradient AdamW leaves a parameter alone, but under DeepSpeed it has one, of zeros, and decays.

        Args:
            images: whether that modality is images.

        Example:
            >>> from hf_jepa import VJepa21Config, VJepa21ForPreTraining
            >>> model = VJepa21ForPreTraining(VJepa21Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            ...     crop_size=16, patch_size=8, frames_per_clip=2, pred_hidden_size=32, pred_num_hidden_layers=1,
            ...     pred_num_attention_heads=2, levels=[0]))
            >>> model.train_one_modality(images=False)
            >>> [name.rpartition("embeddings.")[2] for name, p in model.context_encoder.named_parameters()
            ...     if not p.requires_grad]
            ['proj.weight', 'proj.bias', 'modality.image']
        """
        for module in self.modules():
            if isinstance(module, VJepa21Embeddings):
                (module.patch_embeddings if images else module.image_patch_embeddings).requires_grad_(False)
            elif isinstance(module, ModalityEmbedding):
                (module.video if images else module.image).requires_grad_(False)

    def _context_weight(self, is_image: bool) -> float:
        own = self.config.image_context_loss_weight
        return self.config.context_loss_weight if own is None or not is_image else own

    def _mean(self, losses: Sequence[torch.Tensor], is_image: Sequence[bool]) -> torch.Tensor:
        """The mean of a modality's losses; of two modalities by their weights."""
        means = {
            kind: torch.stack([loss for loss, image in zip(losses, is_image, strict=True) if image == kind]).mean()
            for kind in dict.fromkeys(is_image)
        }
        if len(means) == 1:
            return next(iter(means.values()))
        return torch.lerp(means[False], means[True], self.config.image_loss_weight)

    @torch.no_grad()
    def encode_targets(self, pixel_values_videos: Clips, target_mask: ClipMasks) -> tuple[torch.Tensor, ...]:
        """Target embeddings of each mask's tokens, ordered (group, mask): levels, each normalised, side by side.

        Returns:
            (B, K_i, L * D) each.
        """
        groups = as_groups(pixel_values_videos)
        by_group = self._targets(groups, as_group_masks(target_mask, groups, "target_mask"))
        return tuple(targets for group in by_group for targets in group)

    @torch.no_grad()
    def _targets(self, groups: list[torch.Tensor], masks: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
        """The target embeddings of every group's masks."""
        levels = self.target_encoder(groups, levels=self.config.pred_levels, return_dict=True).levels
        kind = self.config.target_normalization
        normed = [[normalize_targets(tokens, kind) for tokens in level] for level in levels]
        return [
            side_by_side([[take_tokens(level[g], mask) for mask in group] for level in normed])
            for g, group in enumerate(masks)
        ]


class VJepa21ForVideoClassification(VJepa21PreTrainedModel, VJepa2ForVideoClassification):
    """The encoder with an attentive classifier on its tokens, see `VJepa2ForVideoClassification`.

    `classifier_layers` are levels. (The official evaluation of V-JEPA 2.1 on videos and images builds the encoder of
    V-JEPA 2, which computes other features.) Images go through their own tokenizer; the official protocol for images
    repeats them to clips.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepa21Config, VJepa21ForVideoClassification
        >>> model = VJepa21ForVideoClassification(VJepa21Config(hidden_size=32, num_hidden_layers=2,
        ...     num_attention_heads=2, levels=[0, 1], crop_size=32, patch_size=8, frames_per_clip=4,
        ...     pred_num_hidden_layers=1, num_labels=5, classifier_layers=[0, 1]))
        >>> model(torch.randn(2, 4, 3, 32, 32)).logits.shape
        torch.Size([2, 5])
    """

    config: VJepa21Config
    base_model_class = VJepa21Model


__all__ = [
    "VJepa21Encoder",
    "VJepa21ForPreTraining",
    "VJepa21ForPreTrainingOutput",
    "VJepa21ForVideoClassification",
    "VJepa21Model",
    "VJepa21PreTrainedModel",
]
