"""What all VL-JEPA classes share: freezing, checkpoints, parts from elsewhere, the parameter report."""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from hf_jepa.core.configuration import require_model_fields, without_path
from hf_jepa.core.loading import REMEDY, WholeCheckpointMixin
from hf_jepa.core.modeling import JepaPreTrainedModel
from hf_jepa.models.vl_jepa.configuration_vl_jepa import VLJepaConfig
from hf_jepa.models.vl_jepa.language_model_vl_jepa import predictor_of
from hf_jepa.models.vl_jepa.parts_vl_jepa import (
    Part,
    load_decoder,
    load_language_model,
    load_text_model,
    load_vision_model,
)


class PartReport(NamedTuple):
    """A line of `parameter_report`."""

    part: str
    parameters: int
    trainable: int


class VLJepaPreTrainedModel(WholeCheckpointMixin, JepaPreTrainedModel):
    """Flags, initialisation, freezing and checkpoints of all VL-JEPA classes."""

    config: VLJepaConfig
    base_model_prefix = "vl_jepa"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "text")
    _can_compile_fullgraph = False  # the parts may be any models
    remedy = f"{REMEDY}; a new model of trained parts is made by from_parts"

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        vision: Part | None = None,
        output_loading_info: bool = False,
        **kwargs,
    ) -> PreTrainedModel:
        """As in transformers, but no part is left at random weights, unless the loading info is asked for.

        What the config freezes is frozen again: loading makes every parameter trainable.

        Args:
            pretrained_model_name_or_path: Hub id or folder.
            vision: Hub id, folder or model of the X-Encoder, for a checkpoint that was saved without it.
            output_loading_info: also return transformers' report.
            args, kwargs: as in transformers.

        Raises:
            ValueError: weights are missing.
            RuntimeError: `vision` is another encoder than that of the config.
        """
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        missing, encoder = set(info["missing_keys"]), model.base_model.vision_model
        if vision is not None:
            encoder.load_state_dict(load_vision_model(vision, {"dtype": encoder.dtype}).state_dict())
            missing -= model._of_vision(missing)
        if output_loading_info:
            return model, info
        model._require_whole(missing, pretrained_model_name_or_path)
        return model

    def _of_vision(self, keys: set[str]) -> set[str]:
        prefix = "vision_model." if self.base_model is self else f"{self.base_model_prefix}.vision_model."
        return {key for key in keys if key.startswith(prefix)}

    def _remedy_for(self, missing: set[str]) -> str:
        if missing == self._of_vision(missing) and len(missing) == len(self.base_model.vision_model.state_dict()):
            return "it was saved without its X-Encoder: name that one by from_pretrained(..., vision=...)"
        return super()._remedy_for(missing)

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
        if decoder is not None and "decoder" not in cls.optional_parts:
            raise ValueError(f"a {cls.__name__} has no decoder: make a VLJepaForConditionalGeneration")
        loading = {"dtype": torch.float32} | (loading or {})
        causal, count = (fields.get(name, getattr(VLJepaConfig, name)) for name in ("causal", "num_predictor_layers"))
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
        self.base_model.freeze_parts()

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


__all__ = ["PartReport", "VLJepaPreTrainedModel"]
