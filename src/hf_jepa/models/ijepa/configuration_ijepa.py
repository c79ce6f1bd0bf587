"""I-JEPA configuration: native transformers' `IJepaConfig` plus the predictor and the objective."""

from huggingface_hub.dataclasses import strict
from transformers.models.ijepa.configuration_ijepa import IJepaConfig as NativeIJepaConfig

from hf_jepa.core.image_configuration import ImageConfigMixin
from hf_jepa.core.regularization import SigRegConfigMixin
from hf_jepa.core.validation import (
    require_activations,
    require_at_least,
    require_choices,
    require_heads,
    require_positive,
    require_rates,
)


# The encoders of the official code (its constructor functions), with the predictor depth of the released recipes.
SIZES = {
    "vit_tiny": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
    "vit_small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
    "vit_base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "vit_large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "vit_huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120},
    "vit_giant": {
        "hidden_size": 1408,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "intermediate_size": 6144,
        "pred_num_hidden_layers": 16,
    },
}
POSITION_RESIZES = ("bicubic", "recompute")


@strict
class IJepaConfig(SigRegConfigMixin, ImageConfigMixin, NativeIJepaConfig):
    """Configuration of an I-JEPA: native fields for the encoder, `pred_*` for the predictor, and the objective.

    `model_type` stays "ijepa", so a checkpoint also loads in stock transformers (as its target encoder).

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act, hidden_dropout_prob,
            attention_probs_dropout_prob, initializer_range, num_channels, qkv_bias: the encoder, as in the native
            class.
        image_size, patch_size: pixels, an int or (height, width). `image_size` fixes the position tables; images of
            any other size that divides into patches are welcome at run time.
        layer_norm_eps: 1e-6, as in all official models (the native default is 1e-12).
        pred_hidden_size: width of the predictor; a multiple of 4 and of its heads.
        pred_num_hidden_layers: depth of the predictor.
        pred_num_attention_heads: heads of the predictor; the encoder's number when unset, as in the official code.
        pred_mlp_ratio: hidden width of the predictor's feed-forward networks over `pred_hidden_size`.
        position_resize: how position tables follow another image size: "bicubic" interpolation, as native transformers
            does, or "recompute", the sine-cosine table of the new grid.
        rescale_residual_init: divide the initial scale of the layers that write into the residual stream by sqrt(2 l).
            The official classes do it and the official training undoes it (reference point: False).
        target_source, target_normalization, loss_type: see `JepaConfigMixin`.
        sigreg_weight, sigreg_on, sigreg_positions, sigreg_num_slices: see `SigRegConfigMixin`.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> config = IJepaConfig.from_size("vit_huge", patch_size=14)
        >>> config.hidden_size, config.pred_hidden_size, config.grid_size
        (1280, 384, (16, 16))
    """

    target_sources = ("ema", "frozen", "shared", "shared_stopgrad")
    sizes = SIZES

    layer_norm_eps: float = 1e-6
    pred_hidden_size: int = 384
    pred_num_hidden_layers: int = 12
    pred_num_attention_heads: int | None = None
    pred_mlp_ratio: float | int = 4.0
    position_resize: str = "bicubic"
    rescale_residual_init: bool = False
    base_model_fsdp_plan = {"layers.*": "free_full_weight", "layernorm": "keep_full_weight"}

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.pred_num_attention_heads is None:
            self.pred_num_attention_heads = self.num_attention_heads

    def validate_networks(self):
        for prefix in ("", "pred_"):
            require_heads(self, prefix)
            if (width := getattr(self, f"{prefix}hidden_size")) % 4:
                raise ValueError(f"{prefix}hidden_size {width} must be a multiple of 4 for its position table")
        require_at_least(self, 1, ("num_hidden_layers", "pred_num_hidden_layers", "intermediate_size", "num_channels"))
        require_positive(self, "layer_norm_eps", "initializer_range")
        require_rates(self, "hidden_dropout_prob", "attention_probs_dropout_prob")
        if not 1 <= self.pred_hidden_size * self.pred_mlp_ratio < 2**31:
            raise ValueError(f"pred_mlp_ratio {self.pred_mlp_ratio} gives the predictor's networks no width")
        require_activations(self, "hidden_act")
        require_choices(self, position_resize=POSITION_RESIZES)


__all__ = ["SIZES", "IJepaConfig"]
