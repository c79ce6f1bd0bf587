"""The attentive classifier of the video models: one forward for one clip, or for many clips and views of a video."""

from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults

from hf_jepa.layers.attentive_pooler import AttentivePooler
from hf_jepa.layers.views import join_clips, view_loss, view_probabilities


QUESTIONS = ("verb", "noun", "action")  # of action anticipation, in the order of the probe's queries


def attentive_pooler(config: PreTrainedConfig, num_queries: int = 1) -> AttentivePooler:
    """The pooler that a config describes.

    Raises:
        ValueError: heads that do not divide the width.
    """
    if config.pooler_num_attention_heads < 1 or config.hidden_size % config.pooler_num_attention_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} must be a multiple of pooler_num_attention_heads "
            f"{config.pooler_num_attention_heads}"
        )
    return AttentivePooler(
        config,
        config.hidden_size,
        config.pooler_num_attention_heads,
        config.num_pooler_layers,
        num_queries=num_queries,
        layer_norm_eps=config.pooler_layer_norm_eps,
    )


class VideoClassificationMixin:
    """A `...ForVideoClassification` model: a base model of its `base_model_class`, a pooler and a linear classifier.

    Example:
        >>> from hf_jepa import VJepa2ForVideoClassification
        >>> issubclass(VJepa2ForVideoClassification, VideoClassificationMixin)
        True
    """

    base_model_class: ClassVar[type[PreTrainedModel]]

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        config = self.config
        setattr(self, self.base_model_prefix, self.base_model_class(config))
        self.pooler = attentive_pooler(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self, pixel_values_videos: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> ImageClassifierOutput:
        """Classify videos.

        Args:
            pixel_values_videos: clips (B, T, C, H, W), images (B, C, H, W), or S segments in V spatial views of each
                video, (B, S, V, T, C, H, W): the classifier reads all segments of a view together, and the
                probabilities of the views are averaged (official protocol).
            labels: LongTensor (B,) of class indices; the loss is computed when they are given, for several views the
                mean of theirs.

        Returns:
            `loss` (scalar or None) and `logits` (B, num_labels); for several views the logarithms of the averaged
            probabilities.
        """
        config = self.config
        several = pixel_values_videos.ndim == 7
        shape = pixel_values_videos.shape[:3] if several else (len(pixel_values_videos), 1, 1)
        clips = pixel_values_videos.flatten(0, 2) if several else pixel_values_videos
        encoder = getattr(self.base_model, "encoder", self.base_model)
        encoded = encoder(clips, levels=config.classifier_layers or (), **kwargs, return_dict=True)
        levels = encoded.levels or (encoded.last_hidden_state,)
        tokens = join_clips([level.unflatten(0, shape) for level in levels])  # (B, V, S * L * N, D)
        pooled = self.pooler(tokens.flatten(0, 1))[:, 0]
        logits = self.classifier(pooled).unflatten(0, tokens.shape[:2])  # (B, V, C)
        if several:
            loss = None if labels is None else view_loss(logits, labels)
            logits = view_probabilities(logits).log()
        else:
            logits = logits[:, 0]
            loss = None if labels is None else self.loss_function(labels, logits, config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


__all__ = ["QUESTIONS", "VideoClassificationMixin", "attentive_pooler"]
