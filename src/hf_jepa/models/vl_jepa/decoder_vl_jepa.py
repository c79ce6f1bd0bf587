"""The Y-Decoder of VL-JEPA: from the embedding of a text back to the text.

The paper has one and does not say what it is (2512.10942, section 3.1), so this one is ours: a small causal language
model that reads a few tokens made of the embedding, and then the text. It learns from texts alone, from what the
Y-Encoder says of them, and sees predictions only when it is asked; noise on the embedding makes up for the difference.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple

from hf_jepa.core.configuration import require_model_fields, without_path
from hf_jepa.core.modeling import runtime_options
from hf_jepa.losses.distributed import full_precision
from hf_jepa.models.vl_jepa.base_vl_jepa import VLJepaPreTrainedModel
from hf_jepa.models.vl_jepa.configuration_vl_jepa import VLJepaConfig
from hf_jepa.models.vl_jepa.modeling_vl_jepa import VLJepaModel
from hf_jepa.models.vl_jepa.parts_vl_jepa import Part, load_decoder
from hf_jepa.models.vl_jepa.predictor_vl_jepa import tokens_first


IGNORED = -100


class VLJepaDecoder(nn.Module):
    """A causal language model behind a prefix that an embedding becomes.

    Args:
        config: its `decoder_config` is the language model.
        language_model: that model; one with random weights unless given.

    Raises:
        ValueError: the config names no decoder.

    Example:
        >>> from hf_jepa import VARIANTS, VLJepaConfig
        >>> decoder = VLJepaDecoder(VLJepaConfig(**VARIANTS["vl_jepa"].tiny))
        >>> loss, logits = decoder(torch.randn(1, 16), labels=torch.tensor([[9, 4, 1]]))
        >>> logits.shape
        torch.Size([1, 3, 64])
    """

    def __init__(self, config: VLJepaConfig, language_model: PreTrainedModel | None = None):
        super().__init__()
        if config.decoder_config is None:
            raise ValueError(
                "decoder_config is unset: a Y-Decoder needs the config of a causal language model, as in "
                "from_vl_jepa(folder, decoder=...) or from_pretrained(folder, decoder_config=...)"
            )
        self.config = config
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(config.decoder_config, dtype=torch.get_default_dtype())
        self.language_model = language_model
        width = language_model.get_input_embeddings().embedding_dim
        self.prefix_projection = nn.Linear(config.projection_dim, config.num_prefix_tokens * width)

    def prefix(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) of any length to tokens (B, P, H); with noise in training.

        Raises:
            ValueError: another shape.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.config.projection_dim:
            raise ValueError(
                f"embeddings have shape {tuple(embeddings.shape)}, expected (batch, {self.config.projection_dim})"
            )
        unit = nn.functional.normalize(full_precision(embeddings), dim=-1)
        if self.training and self.config.prefix_noise:
            unit = unit + self.config.prefix_noise * torch.randn_like(unit)
        tokens = self.prefix_projection(unit.to(self.prefix_projection.weight.dtype))
        return tokens.unflatten(1, (self.config.num_prefix_tokens, -1))

    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Loss and logits of the labels (B, L), (B, L, V); without labels the logits of the first token, (B, 1, V).

        Padding, -100, stands behind the text in the logits, wherever it stood in the labels.

        Raises:
            ValueError: other shapes, or no label at all.
        """
        parts = [self.prefix(embeddings)]
        if labels is not None:
            if labels.ndim != 2 or len(labels) != len(embeddings):
                raise ValueError(
                    f"labels have shape {tuple(labels.shape)}, expected ({len(embeddings)}, tokens), as many rows as "
                    "embeddings"
                )
            if not (labels != IGNORED).any():
                raise ValueError(f"all labels are {IGNORED}: nothing is learnt from this batch")
            labels, mask = tokens_first(labels, labels != IGNORED)
            parts.append(self.language_model.get_input_embeddings()(labels.where(mask, 0)))
        # Padding stands last, where a causal model does not see it: it needs no mask.
        states = torch.cat([part.to(parts[-1].dtype) for part in parts], dim=1)
        logits = self.language_model(inputs_embeds=states, **kwargs | {"use_cache": False}).logits
        if labels is None:
            return None, logits[:, -1:]
        logits = logits[:, self.config.num_prefix_tokens - 1 : -1]
        loss = nn.functional.cross_entropy(
            full_precision(logits).flatten(0, 1), labels.flatten(), ignore_index=IGNORED
        )
        return loss, logits

    def generate(self, embeddings: torch.Tensor, **options: Any) -> torch.Tensor:
        """Token ids (B, L) of texts, as `generate` of the language model gives them."""
        prefix = self.prefix(embeddings)
        seen = torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device)
        return self.language_model.generate(inputs_embeds=prefix, attention_mask=seen, **options)


class VLJepaForConditionalGeneration(VLJepaPreTrainedModel):
    """A VL-JEPA with a Y-Decoder: captions, and answers in free words. Only the decoder is trained.

    A checkpoint of pretraining has no decoder: `from_vl_jepa` adds one, `from_pretrained` then loads both.

    Args:
        config: which networks; its `decoder_config` must be set.
        decoder: the language model of the Y-Decoder.
        parts: see `VLJepaModel`.

    Raises:
        ValueError: the config names no decoder.

    Example:
        >>> from hf_jepa import VARIANTS, VLJepaConfig
        >>> model = VLJepaForConditionalGeneration(VLJepaConfig(**VARIANTS["vl_jepa"].tiny))
        >>> texts, ids = torch.tensor([[5, 6], [7, 8]]), torch.tensor([[9, 4, 1], [3, 1, -100]])
        >>> out = model(target_ids=texts, labels=ids)  # the same texts in the tokens of both tokenizers
        >>> out.loss.backward()
        >>> out.logits.shape
        torch.Size([2, 3, 64])
        >>> len(model.eval().generate(pixel_values_videos=torch.randn(2, 4, 3, 32, 32), max_new_tokens=4))
        2
    """

    accepts_loss_kwargs = False
    optional_parts = ("decoder",)

    def __init__(self, config: VLJepaConfig, decoder: PreTrainedModel | None = None, **parts: PreTrainedModel | None):
        super().__init__(config)
        self.vl_jepa = VLJepaModel(self.config, **parts)
        self.decoder = VLJepaDecoder(self.config, decoder)
        self.freeze_parts()
        self.post_init()

    @classmethod
    def from_vl_jepa(
        cls, vl_jepa: Part, decoder: Part, loading: dict[str, Any] | None = None, **fields: Any
    ) -> "VLJepaForConditionalGeneration":
        """Add a Y-Decoder to a trained VL-JEPA.

        Args:
            vl_jepa: folder or Hub id of a checkpoint, or a model, which becomes part of the new one.
            decoder: a causal language model: folder, Hub id, model, or a config for random weights.
            loading: arguments of `from_pretrained` for both; `dtype` is float32 unless given.
            fields: of `VLJepaConfig` that differ, such as `num_prefix_tokens`.

        Raises:
            ValueError: an unknown field; a checkpoint that lacks weights.
        """
        require_model_fields(cls.config_class, fields)
        loading = {"dtype": torch.float32} | (loading or {})
        if not isinstance(vl_jepa, PreTrainedModel):
            vl_jepa = VLJepaModel.from_pretrained(vl_jepa, **loading)
        model = vl_jepa.base_model
        language_model = load_decoder(decoder, loading)
        decoder_config = without_path(language_model.config).to_dict()
        config = cls.config_class.from_dict(model.config.to_dict() | fields | {"decoder_config": decoder_config})
        return cls(
            config,
            decoder=language_model,
            vision_model=model.vision_model,
            language_model=model.predictor.language_model,
            text_model=model.text_model,
        )._take_projections(model)

    def _take_projections(self, model: VLJepaModel) -> "VLJepaForConditionalGeneration":
        """Those of a model whose networks this one has."""
        self.vl_jepa.load_state_dict(model.state_dict())
        return self

    def freeze_parts(self) -> None:
        """Exclude everything but the decoder from training; also done by `from_pretrained`."""
        super().freeze_parts()
        self.vl_jepa.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        super().train(mode)
        self.vl_jepa.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        return self.decoder.language_model.get_output_embeddings()

    def named_parts(self) -> list[tuple[str, list[nn.Parameter]]]:
        own = [
            ("Y-Decoder prefix", list(self.decoder.prefix_projection.parameters())),
            ("Y-Decoder", list(self.decoder.language_model.parameters())),
        ]
        return [*super().named_parts(), *own]

    @torch.no_grad()
    def embed(
        self,
        embeddings: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
        **inputs: torch.Tensor | None,
    ) -> torch.Tensor:
        """What is decoded: embeddings that are given, those of texts, or predictions.

        Args:
            embeddings: (B, D)
            target_ids, target_mask: see `VLJepaModel.encode_text`.
            inputs: see `VLJepaModel.predict`.

        Returns:
            (B, D)

        Raises:
            ValueError: not exactly one of the three.
        """
        inputs = {name: value for name, value in inputs.items() if value is not None}
        if (embeddings is not None) + (target_ids is not None) + bool(inputs) != 1:
            raise ValueError(
                "a text is decoded from embeddings, from target_ids (with target_mask), or from clips and queries: "
                "give one of the three"
            )
        if embeddings is not None:
            return embeddings
        return self.vl_jepa.predict(**inputs) if inputs else self.vl_jepa.encode_text(target_ids, target_mask)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        vision_tokens: torch.Tensor | None = None,
        query_ids: torch.Tensor | None = None,
        query_mask: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
        embeddings: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutput:
        """The loss of texts, decoded from their embeddings.

        Args:
            pixel_values_videos, vision_tokens, query_ids, query_mask: see `VLJepaModel.predict`.
            target_ids, target_mask: see `VLJepaModel.encode_text`.
            embeddings: (B, D), of any length.
            labels: (B, L), token ids of the decoder's tokenizer with the end of the text, -100 for padding.
            kwargs: of the language model.

        Returns:
            `loss`, the mean cross-entropy of tokens, and `logits` (B, L, V).

        Raises:
            TypeError: an argument that nothing would read.
            ValueError: see `embed`; labels of other shapes, or none that is learnt.
        """
        embedded = self.embed(
            embeddings,
            target_ids,
            target_mask,
            pixel_values_videos=pixel_values_videos,
            vision_tokens=vision_tokens,
            query_ids=query_ids,
            query_mask=query_mask,
        )
        loss, logits = self.decoder(embedded, labels, **runtime_options(self, kwargs))
        return CausalLMOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        embeddings: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        query_ids: torch.Tensor | None = None,
        query_mask: torch.Tensor | None = None,
        vision_tokens: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """Texts of embeddings, or of clips and queries.

        Args:
            embeddings: (B, D), of any length; or the other four, see `VLJepaModel.predict`.
            options: of `generate` of the language model, such as `max_new_tokens` or `num_beams`.

        Returns:
            (B, L) token ids of the decoder's tokenizer, without the prefix.

        Raises:
            ValueError: see `embed`.
        """
        embedded = self.embed(
            embeddings,
            pixel_values_videos=pixel_values_videos,
            query_ids=query_ids,
            query_mask=query_mask,
            vision_tokens=vision_tokens,
        )
        return self.decoder.generate(embedded, **options)


__all__ = ["VLJepaDecoder", "VLJepaForConditionalGeneration"]
