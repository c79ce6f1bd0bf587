"""Configuration of data2vec for speech: native transformers' `Data2VecAudioConfig` plus the objective."""

from huggingface_hub.dataclasses import strict
from transformers.models.data2vec.configuration_data2vec_audio import (
    Data2VecAudioConfig as NativeData2VecAudioConfig,
)

from hf_jepa.core.data2vec import Data2VecConfigMixin
from hf_jepa.core.validation import require_activations, require_rates


@strict
class Data2VecAudioConfig(Data2VecConfigMixin, NativeData2VecAudioConfig):
    """Configuration of data2vec for speech: native fields for the encoder, and the objective.

    `model_type` stays "data2vec-audio", so a checkpoint also loads in stock transformers (as its student). Defaults
    are those of the official pretraining recipe, where the native class has those of fine-tuning.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, conv_dim, conv_kernel, conv_stride,
            num_conv_pos_embeddings, conv_pos_kernel_size, num_conv_pos_embedding_groups, ...: the encoder, as in the
            native class.
        activation_dropout, layerdrop: 0 and 0.05 in pretraining.
        mask_time_prob, mask_time_length, mask_time_min_masks: of `SpanMaskSampler`; the model itself draws no masks.
        official_padded_statistics: count padded frames in the mean and deviation over time of the targets, as the
            official code does; otherwise they have no part in them.
        layer_target_normalization, target_normalization, top_k_layers, loss_beta, loss_scale, pred_num_layers: see
            `Data2VecConfigMixin`.
        target_source, loss_type: see `JepaConfigMixin`.

    Example:
        >>> from hf_jepa import Data2VecAudioConfig
        >>> config = Data2VecAudioConfig.from_size("base")
        >>> config.top_k_layers, config.layer_target_normalization, config.loss_beta
        (8, 'instance_norm', 0.0)
    """

    activation_dropout: float | int = 0.0
    layerdrop: float | int = 0.05
    mask_time_prob: float | int = 0.65
    mask_time_min_masks: int = 1
    top_k_layers: int = 8
    layer_target_normalization: str = "instance_norm"
    target_normalization: str = "none"
    loss_beta: float | int = 0.0
    pred_num_layers: int = 1
    official_padded_statistics: bool = False

    def validate_speech(self):
        if self.add_adapter:
            raise ValueError("add_adapter=True shortens the student's output: targets have one row for each frame")
        if not self.mask_time_prob > 0:
            raise ValueError(
                f"mask_time_prob must be above 0, got {self.mask_time_prob}: the native encoder has no mask token else"
            )
        if self.mask_feature_prob:
            raise ValueError(f"mask_feature_prob must be 0, got {self.mask_feature_prob}: only time is masked here")
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_conv_pos_embedding_groups "
                f"{self.num_conv_pos_embedding_groups}"
            )
        dropouts = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop")
        require_rates(self, *dropouts)
        require_activations(self, "hidden_act", "feat_extract_activation")


__all__ = ["Data2VecAudioConfig"]
