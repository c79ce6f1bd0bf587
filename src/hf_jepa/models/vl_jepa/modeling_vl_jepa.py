"""VL-JEPA (Chen et al. 2025, arXiv 2512.10942): the embedding of a text is predicted from a clip and a query.

An X-Encoder says what is seen, a predictor made of a language model's last layers reads that and the query, and its
answer is compared with what a Y-Encoder says of the text. Unlike in other members of the family there is no average
and no mask: both sides may be trained, and InfoNCE over the batch keeps them apart. No official code exists; where the
paper is silent README.md says what we chose.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple, logging

from hf_jepa.core.configuration import require_model_fields, without_path
from hf_jepa.core.modeling import JepaPreTrainedModel, runtime_options
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.core.regularization import require_step
from hf_jepa.losses.infonce import infonce
from hf_jepa.losses.pair_distance import pair_distance
from hf_jepa.losses.sigreg import sigreg
from hf_jepa.losses.vicreg import vicreg_loss
from hf_jepa.models.vl_jepa.configuration_vl_jepa import VLJepaConfig
from hf_jepa.models.vl_jepa.parts_vl_jepa import (
    Part,
    load_decoder,
    load_language_model,
    load_text_model,
    load_vision_model,
    new_text_model,
    new_vision_model,
    pooled_states,
    vision_tokens_of,
)
from hf_jepa.models.vl_jepa.predictor_vl_jepa import (
    VLJepaPredictor,
    VLJepaPredictorOutput,
    packed_tokens,
    predictor_of,
)


logger = logging.get_logger(__name__)


class PartReport(NamedTuple):
    """A line of `parameter_report`."""

    part: str
    parameters: int
    trainable: int


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


class VLJepaPreTrainedModel(JepaPreTrainedModel):
    """Flags, initialisation, freezing and checkpoints of all VL-JEPA classes."""

    config: VLJepaConfig
    base_model_prefix = "vl_jepa"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "text")
    _can_compile_fullgraph = False  # the parts may be any models
    # May be absent from a checkpoint as a whole, and then start afresh.
    optional_parts: tuple[str, ...] = ()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, VLJepaModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs
    ) -> PreTrainedModel:
        """As in transformers, but no part is left at random weights, unless the loading info is asked for.

        What the config freezes is frozen again: loading makes every parameter trainable.

        Raises:
            ValueError: weights are missing.
        """
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model.freeze_parts()
        if output_loading_info:
            return model, info
        missing = set(info["missing_keys"])
        for part in cls.optional_parts:
            expected = {key for key in model.state_dict() if key.startswith(f"{part}.")}
            if expected & missing and not any(key.startswith(f"{part}.") for key in _stored(info, model, missing)):
                missing -= expected
                logger.warning(f"{pretrained_model_name_or_path} holds no {part}: it starts from a fresh initialisation")
        if lost := sorted(missing):
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(lost)} weights of {cls.__name__}, among them "
                f"{', '.join(lost[:5])}. Check that it is a checkpoint of a VL-JEPA, and not truncated; a new model of "
                "trained parts is made by from_parts"
            )
        return model

    @classmethod
    def from_parts(
        cls,
        vision: Part,
        init_predictor_from: Part,
        text: Part,
        decoder: Part | None = None,
        loading: dict[str, Any] | None = None,
        **fields: Any,
    ) -> PreTrainedModel:
        """A model of trained parts, with new projections between them.

        Each part is a Hub id, a folder or a model, which becomes part of the new one; or a config, for random weights.

        Args:
            vision: of the X-Encoder: any encoder of clips or images, such as "facebook/vjepa2-vitl-fpc64-256".
            init_predictor_from: a language model built like Llama, such as "meta-llama/Llama-3.2-1B". The predictor
                gets copies of its last `num_predictor_layers` layers, its token embeddings and its final norm.
            text: of the Y-Encoder: any encoder of texts, such as "google/embeddinggemma-300m".
            decoder: a causal language model, for `VLJepaForConditionalGeneration`.
            loading: arguments of `from_pretrained` for all parts, such as `token`; `dtype` is float32 unless given.
            fields: of `VLJepaConfig`.

        Raises:
            ValueError: an unknown field; a checkpoint that lacks weights; a language model with fewer layers, or that
                cannot be a predictor.
        """
        require_model_fields(cls.config_class, fields)
        loading = {"dtype": torch.float32} | (loading or {})
        causal, count = (fields.get(name, getattr(cls.config_class, name)) for name in ("causal", "num_predictor_layers"))
        language_model = load_language_model(init_predictor_from, loading)
        depth = language_model.config.num_hidden_layers
        parts = {
            "vision_model": load_vision_model(vision, loading),
            "language_model": predictor_of(language_model, count, causal),
            "text_model": load_text_model(text, loading),
        }
        if decoder is not None:
            parts["decoder"] = load_decoder(decoder, loading)
        config = cls.config_class(
            vision_config=without_path(parts["vision_model"].config),
            predictor_config=parts["language_model"].config,
            text_config=without_path(parts["text_model"].config),
            decoder_config=without_path(parts["decoder"].config) if decoder is not None else None,
            **{"source_num_layers": depth, "layer_slice": [depth - count, depth]} | fields,
        )
        return cls(config, **parts)

    def freeze_parts(self) -> None:
        """Exclude from training what the config says; also done by `from_pretrained`."""
        for model in self.modules():
            if isinstance(model, VLJepaModel):
                model.freeze_own_parts()

    def parameter_report(self) -> list[PartReport]:
        """How many parameters each part has, and how many of them are trained; the last line is the sum.

        Works on the meta device, too, where a model of any size costs nothing.

        Example:
            >>> from hf_jepa import VLJepaConfig, VLJepaModel
            >>> with torch.device("meta"):
            ...     model = VLJepaModel(VLJepaConfig())  # the paper's sizes
            >>> for part, parameters, trainable in model.parameter_report():
            ...     print(f"{part:28} {parameters / 1e6:8.2f} {trainable / 1e6:8.2f}")
            X-Encoder                      303.89     0.00
            vision projection                2.10     2.10
            predictor layers               486.57   486.57
            predictor token embeddings     262.67     0.00
            predictor projection             3.15     3.15
            Y-Encoder                      302.86   302.86
            text projection                  1.18     1.18
            logit scale                      0.00     0.00
            total                         1362.42   795.86
        """
        lines = [
            PartReport(part, sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad))
            for part, own in self.named_parts()
        ]
        return [*lines, PartReport("total", *(sum(line[i] for line in lines) for i in (1, 2)))]

    def named_parts(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Each part of the model with its parameters, every one once."""
        model = self.base_model
        embeddings = list(model.predictor.language_model.get_input_embeddings().parameters())
        known = {id(p) for p in embeddings}
        return [
            ("X-Encoder", list(model.vision_model.parameters())),
            ("vision projection", list(model.predictor.vision_projection.parameters())),
            ("predictor layers", [p for p in model.predictor.language_model.parameters() if id(p) not in known]),
            ("predictor token embeddings", embeddings),
            ("predictor projection", list(model.predictor.projection.parameters())),
            ("Y-Encoder", list(model.text_model.parameters())),
            ("text projection", list(model.text_projection.parameters())),
            ("logit scale", [model.logit_scale]),
        ]


def _stored(info: dict[str, Any], model: nn.Module, missing: set[str]) -> set[str]:
    """Keys of a model that its checkpoint held, in the right shape or another."""
    return set(model.state_dict()) - missing | {key for key, *_ in info["mismatched_keys"]}


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
        self.freeze_own_parts()
        self.post_init()

    def freeze_own_parts(self) -> None:
        """Exclude from training what the config says."""
        config = self.config
        frozen = {
            self.vision_model: config.freeze_vision,
            self.text_model: config.freeze_text,
            self.predictor.language_model.get_input_embeddings(): config.freeze_token_embeddings,
        }
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

    def get_input_embeddings(self) -> nn.Module:
        return self.vl_jepa.get_input_embeddings()

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
        config = self.config
        if config.mask_duplicates and target_group is None:
            raise ValueError("mask_duplicates=True needs target_group, one number for each text, equal for equal texts")
        if config.loss_type == "infonce":
            groups = target_group if config.mask_duplicates else None
            distances = infonce(
                predictions,
                targets,
                symmetric=True,
                gather=config.gather_negatives,
                logit_scale=self.vl_jepa.logit_scale,
                groups=groups,
            )
        else:
            distances = pair_distance(predictions, targets, {"l2": "mse"}.get(config.loss_type, config.loss_type))
        prediction_loss = distances.mean()
        regularization = self._regularization(predictions, targets, step)
        return JepaForPreTrainingOutput(
            loss=prediction_loss if regularization is None else prediction_loss + regularization,
            prediction_loss=prediction_loss,
            regularization_loss=regularization,
            predictions=predictions,
            targets=targets,
        )

    def _regularization(self, predictions, targets, step: int | None) -> torch.Tensor | None:
        kind, weight = self.config.regularization_type, self.config.regularization_weight
        if kind is None or not weight:
            return None
        if kind == "vicreg":  # its invariance is the prediction loss's business
            return weight * vicreg_loss(predictions, targets, invariance_weight=0.0).loss
        return weight * sigreg(torch.stack([predictions, targets]), require_step(self, step))


__all__ = [
    "PartReport",
    "VLJepaForPreTraining",
    "VLJepaModel",
    "VLJepaOutput",
    "VLJepaPreTrainedModel",
]
