"""VL-JEPA (Chen et al. 2025, arXiv 2512.10942): the embedding of a text is predicted from a clip and a query.

An X-Encoder says what is seen, a predictor made of a language model's last layers reads that and the query, and its
answer is compared with what a Y-Encoder says of the text. Unlike in other members of the family there is no average
and no mask: both sides may be trained, and InfoNCE over the batch keeps them apart. No official code exists; where the
paper is silent README.md says what we chose.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from hf_jepa.core.backbones import freeze_what_is_not_read
from hf_jepa.core.modeling import runtime_options
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.core.regularization import require_step
from hf_jepa.losses.infonce import infonce
from hf_jepa.losses.pair_distance import pair_distance
from hf_jepa.losses.prediction import prediction_loss
from hf_jepa.losses.sigreg import sigreg
from hf_jepa.losses.vicreg import vicreg_loss
from hf_jepa.models.vl_jepa.base_vl_jepa import VLJepaPreTrainedModel
from hf_jepa.models.vl_jepa.configuration_vl_jepa import VLJepaConfig
from hf_jepa.models.vl_jepa.parts_vl_jepa import (
    new_text_model,
    new_vision_model,
    pooled_states,
    vision_tokens_of,
)
from hf_jepa.models.vl_jepa.predictor_vl_jepa import (
    VLJepaPredictor,
    VLJepaPredictorOutput,
    packed_tokens,
)


@dataclass
class VLJepaOutput(ModelOutput):
    """Output of `VLJepaModel`.

    Args:
        last_hidden_state: (B, N + L, H), states of the predictor: vision tokens, then the query.
        predictions: (B, D), what it says of the text, not normalised.
        targets: (B, D), what the Y-Encoder says of it, not normalised; None where no text was given.
        context: (B, N, Dv), what the X-Encoder says; None where no clip was given.
        hidden_states, attentions: of the predictor, when asked for.
    """

    last_hidden_state: torch.FloatTensor | None = None
    predictions: torch.FloatTensor | None = None
    targets: torch.FloatTensor | None = None
    context: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class VLJepaModel(VLJepaPreTrainedModel):
    """The parts of a VL-JEPA that answer: X-Encoder, predictor, Y-Encoder.

    Args:
        config: which networks they are.
        vision_model, language_model, text_model: these networks, see `from_parts`; with random weights unless given.

    Example:
        >>> from hf_jepa import VARIANTS, VLJepaConfig, VLJepaModel
        >>> model = VLJepaModel(VLJepaConfig(**VARIANTS["vl_jepa"].tiny)).eval()
        >>> clips, query = torch.randn(2, 4, 3, 32, 32), torch.tensor([[5, 6, 7], [8, 0, 0]])
        >>> vision_tokens = model.get_vision_tokens(clips)  # once for all queries
        >>> predicted = model.predict(vision_tokens=vision_tokens, query_ids=query, query_mask=query != 0)
        >>> texts = model.encode_text(torch.tensor([[9, 4], [3, 0]]), torch.tensor([[1, 1], [1, 0]]))
        >>> predicted.shape == texts.shape
        True
    """

    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(
        self,
        config: VLJepaConfig,
        vision_model: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
        text_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        config = self.config
        self.vision_model = new_vision_model(config.vision_config) if vision_model is None else vision_model
        self.predictor = VLJepaPredictor(config, language_model)
        self.text_model = new_text_model(config.text_config) if text_model is None else text_model
        width = config.text_hidden_size
        self.text_projection = nn.Linear(width, config.projection_dim) if config.project_text else nn.Identity()
        self.logit_scale = nn.Parameter(torch.full((1,), float(config.logit_scale_init)))
        self.freeze_parts()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if module is self:
            init.constant_(self.logit_scale, self.config.logit_scale_init)

    def freeze_parts(self) -> None:
        """Exclude from training what the config says."""
        config = self.config
        frozen = {
            self.vision_model: config.freeze_vision,
            self.text_model: config.freeze_text,
            self.predictor.language_model.get_input_embeddings(): config.freeze_token_embeddings,
        }
        for encoder in (self.vision_model, self.text_model):
            freeze_what_is_not_read(encoder)
        for part, is_frozen in frozen.items():
            if is_frozen:
                part.requires_grad_(False)
        self.logit_scale.requires_grad_(config.learn_logit_scale and config.loss_type == "infonce")
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.config.freeze_vision:
            self.vision_model.eval()  # no dropout, no stochastic depth in what is not trained
        if self.config.freeze_text:
            self.text_model.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.predictor.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.predictor.language_model.set_input_embeddings(value)

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the learnt scale at `logit_scale_max` or below; call it after every optimizer step."""
        self.logit_scale.clamp_(max=self.config.logit_scale_max)

    def get_vision_tokens(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """What the X-Encoder says of clips: of the whole, so that it can be kept for all queries and epochs.

        Args:
            pixel_values_videos: (B, T, C, H, W); an image is a clip of one frame.

        Returns:
            (B, N, Dv), without gradient while the X-Encoder is frozen.

        Raises:
            TypeError: raw pixels.
            ValueError: another number of dimensions.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_vision):
            return vision_tokens_of(self.vision_model, pixel_values_videos)

    def predict(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        query_ids: torch.Tensor | None = None,
        query_mask: torch.Tensor | None = None,
        vision_tokens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The embedding of the text that answers a query about clips.

        Args:
            pixel_values_videos: (B, T, C, H, W), or their `vision_tokens` (B, N, Dv); neither for a query alone.
            query_ids: (B, L) token ids; None where nothing is asked.
            query_mask: (B, L), 1 for tokens and 0 for padding. Rows may be all padding.

        Returns:
            (B, D), not normalised.

        Raises:
            ValueError: both clips and tokens; a sample with neither clip nor query; see also `VLJepaPredictor`.
        """
        return self._predict(pixel_values_videos, query_ids, query_mask, vision_tokens)[0].predictions

    def _predict(
        self, pixel_values_videos, query_ids, query_mask, vision_tokens, **kwargs
    ) -> tuple[VLJepaPredictorOutput, torch.Tensor | None]:
        if pixel_values_videos is not None and vision_tokens is not None:
            raise ValueError("give pixel_values_videos or the vision_tokens made of them, not both")
        if pixel_values_videos is not None:
            vision_tokens = self.get_vision_tokens(pixel_values_videos)
        return self.predictor(vision_tokens, query_ids, query_mask, **kwargs), vision_tokens

    def encode_text(self, target_ids: torch.Tensor, target_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The embeddings of texts.

        Args:
            target_ids: (B, L) token ids of the Y-Encoder's tokenizer.
            target_mask: (B, L), 1 for tokens and 0 for padding, on whichever side.

        Returns:
            (B, D), not normalised.

        Raises:
            ValueError: a text without tokens, or one that is too long.
        """
        ids, mask = packed_tokens(target_ids, target_mask, "target", self.config.max_target_length)
        if target_mask is not None and (empty := (~mask.any(dim=1)).nonzero().flatten().tolist()):
            raise ValueError(f"rows {empty[:5]} of target_mask are all 0: a text needs a token")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_text):
            output = self.text_model(input_ids=ids, attention_mask=mask.long(), return_dict=True)
            pooled = pooled_states(output.last_hidden_state, mask, self.config.text_pooling)
        return self.text_projection(pooled)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        query_ids: torch.Tensor | None = None,
        query_mask: torch.Tensor | None = None,
        vision_tokens: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> VLJepaOutput:
        """Predict, and encode the texts where they are given.

        Args:
            pixel_values_videos, query_ids, query_mask, vision_tokens: see `predict`.
            target_ids, target_mask: see `encode_text`.

        Raises:
            TypeError: an argument that nothing would read.
            ValueError: see `predict` and `encode_text`.
        """
        kwargs = runtime_options(self, kwargs)
        kwargs.pop("use_cache", None)
        output, context = self._predict(pixel_values_videos, query_ids, query_mask, vision_tokens, **kwargs)
        return VLJepaOutput(
            last_hidden_state=output.last_hidden_state,
            predictions=output.predictions,
            targets=None if target_ids is None else self.encode_text(target_ids, target_mask),
            context=context,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


class VLJepaForPreTraining(VLJepaPreTrainedModel):
    """A VL-JEPA with its objective, for both stages: without queries, and with them.

    Args:
        config: which networks, and the objective.
        parts: see `VLJepaModel`.

    Example:
        >>> from hf_jepa import VARIANTS, VLJepaConfig, VLJepaForPreTraining
        >>> model = VLJepaForPreTraining(VLJepaConfig(**VARIANTS["vl_jepa"].tiny))
        >>> out = model(pixel_values_videos=torch.randn(3, 4, 3, 32, 32), target_ids=torch.tensor([[5], [6], [7]]))
        >>> out.loss.backward()
        >>> out.predictions.shape, out.targets.shape
        (torch.Size([3, 16]), torch.Size([3, 16]))
    """

    accepts_loss_kwargs = False  # for `Trainer`: the loss is the mean of a batch
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: VLJepaConfig, **parts: PreTrainedModel | None):
        super().__init__(config)
        self.vl_jepa = VLJepaModel(self.config, **parts)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        vision_tokens: torch.Tensor | None = None,
        query_ids: torch.Tensor | None = None,
        query_mask: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
        target_group: torch.Tensor | None = None,
        step: int | None = None,
        **kwargs,
    ) -> JepaForPreTrainingOutput:
        """Compare what is predicted of texts with what the Y-Encoder says of them.

        Args:
            pixel_values_videos, vision_tokens, query_ids, query_mask: see `VLJepaModel.predict`.
            target_ids, target_mask: see `VLJepaModel.encode_text`.
            target_group: (B,) int64, equal for equal texts, for `mask_duplicates`.
            step: optimizer step, which seeds what "sigreg" draws.

        Returns:
            `predictions` (B, D) and `targets` (B, D), not normalised and both with gradients where they are trained,
            and `context` (B, N, Dv), the vision tokens.

        Raises:
            TypeError: an argument that nothing would read.
            ValueError: no targets, or what `predict`, `encode_text` and `objective` refuse.
        """
        if target_ids is None:
            raise ValueError("VLJepaForPreTraining compares predictions with texts: give target_ids and target_mask")
        out = self.vl_jepa(
            pixel_values_videos,
            query_ids,
            query_mask,
            vision_tokens,
            target_ids,
            target_mask,
            return_dict=True,
            **kwargs,
        )
        losses = self.objective(out.predictions, out.targets, target_group, step)
        losses.context, losses.hidden_states, losses.attentions = out.context, out.hidden_states, out.attentions
        return losses

    def objective(
        self,
        predictions: torch.Tensor,
        targets: torch.Tensor,
        target_group: torch.Tensor | None = None,
        step: int | None = None,
    ) -> JepaForPreTrainingOutput:
        """The loss of embeddings, wherever they were computed (a large batch may be encoded piece by piece).

        Args:
            predictions, targets: (B, D), not normalised.
            target_group, step: see `forward`.

        Raises:
            ValueError: `mask_duplicates` without groups; "sigreg" in training without a step; shapes that differ.
        """
        if self.config.mask_duplicates and target_group is None:
            raise ValueError(
                "mask_duplicates=True needs target_group, one number for each text, equal for equal texts"
            )
        loss = self._distance(predictions, targets, target_group)
        regularization = self._regularization(predictions, targets, step)
        return JepaForPreTrainingOutput(
            loss=loss if regularization is None else loss + regularization,
            prediction_loss=loss,
            regularization_loss=regularization,
            predictions=predictions,
            targets=targets,
        )

    def _distance(self, predictions, targets, target_group: torch.Tensor | None) -> torch.Tensor:
        config = self.config
        if config.loss_type == "infonce":
            return infonce(
                predictions,
                targets,
                symmetric=True,
                gather=config.gather_negatives,
                logit_scale=self.vl_jepa.logit_scale,
                groups=target_group if config.mask_duplicates else None,
            ).mean()
        if config.loss_type == "cosine":
            return pair_distance(predictions, targets, "cosine").mean()
        return prediction_loss(predictions, targets, {"l1": "l1", "l2": "mse"}[config.loss_type])

    def _regularization(self, predictions, targets, step: int | None) -> torch.Tensor | None:
        kind, weight = self.config.regularization_type, self.config.regularization_weight
        if kind is None or not weight:
            return None
        if kind == "vicreg":  # its invariance is the prediction loss's business
            return weight * vicreg_loss(predictions, targets, invariance_weight=0.0).loss
        return weight * sigreg(torch.stack([predictions, targets]), require_step(self, step))


__all__ = [
    "VLJepaForPreTraining",
    "VLJepaModel",
    "VLJepaOutput",
]
