"""The linear classifier of the image models: one forward, whatever their encoder."""

import torch
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults


class ImageClassificationMixin:
    """The forward of a `...ForImageClassification` model, which has a base model and a `classifier`.

    Example:
        >>> from hf_jepa import IJepaForImageClassification
        >>> issubclass(IJepaForImageClassification, ImageClassificationMixin)
        True
    """

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values: (B, C, H, W).
            labels: LongTensor (B,) of class indices; the loss is computed when they are given.

        Returns:
            `loss` (scalar or None) and `logits` (B, num_labels).
        """
        outputs = self.base_model(pixel_values, **kwargs, return_dict=True)
        logits = self.classifier(self.pooled(outputs.last_hidden_state))
        loss = self.loss_function(labels, logits, self.config, **kwargs) if labels is not None else None
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the classifier reads, (B, N, D) -> (B, D): the mean of the tokens."""
        return tokens.mean(dim=1)


__all__ = ["ImageClassificationMixin"]
