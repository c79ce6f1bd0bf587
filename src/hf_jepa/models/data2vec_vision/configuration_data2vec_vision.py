"""Configuration of data2vec for images: native transformers' `Data2VecVisionConfig` plus the objective."""

from huggingface_hub.dataclasses import strict
from transformers.models.data2vec.configuration_data2vec_vision import (
    Data2VecVisionConfig as NativeData2VecVisionConfig,
)

from hf_jepa.core.data2vec import Data2VecConfigMixin
from hf_jepa.core.image_configuration import ImageConfigMixin
from hf_jepa.core.validation import require_activations, require_at_least, require_rates


@strict
class Data2VecVisionConfig(Data2VecConfigMixin, ImageConfigMixin, NativeData2VecVisionConfig):
    """Configuration of data2vec for images: native fields for the encoder, and the objective.

    `model_type` stays "data2vec-vision", so a checkpoint also loads in stock transformers (as its student). Defaults
    are those of the official pretraining recipe, where the native class has those of fine-tuning.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act, hidden_dropout_prob,
            attention_probs_dropout_prob, initializer_range, num_channels, layer_scale_init_value, drop_path_rate,
            use_absolute_position_embeddings, use_relative_position_bias, use_shared_relative_position_bias: the
            encoder, as in the native class.
        image_size, patch_size: pixels of a side. `image_size` fixes the table of relative positions; it is
            interpolated for other sizes at run time.
        layer_norm_eps: 1e-5, as in the official code (the native default is 1e-12).
        use_mask_token: True for pretraining.
        use_mean_pooling: False for pretraining: the encoder ends in a LayerNorm, which the native class has without
            pooling only.
        rescale_residual_init: divide the initial scale of the layers that write into the residual stream by sqrt(2 l),
            as the official code does.
        official_token_init: start the class token and the mask token from a normal distribution of mean 0.02 and
            deviation 1, cut at -2 and 2, as the official code does by mistake; otherwise mean 0 and deviation
            `initializer_range`.
        top_k_layers, layer_target_normalization, loss_beta, loss_scale, pred_num_layers: see `Data2VecConfigMixin`.
        target_source, target_normalization, loss_type: see `JepaConfigMixin`.

    Example:
        >>> from hf_jepa import Data2VecVisionConfig
        >>> config = Data2VecVisionConfig.from_size("large")
        >>> config.hidden_size, config.grid_size, config.top_k_layers
        (1024, (14, 14), 6)
    """

    attention_probs_dropout_prob: float | int = 0.05
    layer_norm_eps: float = 1e-5
    layer_scale_init_value: float = 1e-4
    drop_path_rate: float | int = 0.25
    use_mask_token: bool = True
    use_mean_pooling: bool = False
    use_shared_relative_position_bias: bool = True
    rescale_residual_init: bool = True
    official_token_init: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name in ("out_indices", "pool_scales"):  # lists in JSON, tuples by default in the native class
            setattr(self, name, tuple(getattr(self, name)))

    def validate_geometry(self):
        for name in ("image_size", "patch_size"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(
                    f"{name} {getattr(self, name)} must be one number: the native encoder takes square images"
                )
        require_at_least(self, 1, ("num_channels",))
        require_rates(self, "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
        require_activations(self, "hidden_act")


__all__ = ["Data2VecVisionConfig"]
