"""V-JEPA 2 configuration: native transformers' `VJEPA2Config` plus the objective and what the native class lacks."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.models.vjepa2.configuration_vjepa2 import VJEPA2Config as NativeVJepa2Config

from hf_jepa.core.regularization import SigRegConfigMixin
from hf_jepa.core.validation import require_at_least, require_choices
from hf_jepa.core.video_configuration import SIZES as VJEPA_SIZES
from hf_jepa.core.video_configuration import VideoConfigMixin
from hf_jepa.layers.rotary import LAYOUTS, rotary_axis_dim


# Width 1408 and depth 40 are vit_giant_xformers, of 22 heads; the official vit_giant of 16 was never released.
SIZES = VJEPA_SIZES | {"vit_giant": VJEPA_SIZES["vit_giant"] | {"num_attention_heads": 22}}


@strict
class VJepa2Config(SigRegConfigMixin, VideoConfigMixin, NativeVJepa2Config):
    """Configuration of a V-JEPA 2: native fields for encoder and predictor, and the objective.

    `model_type` stays "vjepa2", so a checkpoint also loads in stock transformers (its target encoder and predictor).

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, mlp_ratio, hidden_act, qkv_bias, layer_norm_eps,
            initializer_range, attention_probs_dropout_prob, drop_path_rate, in_chans, tubelet_size: the encoder, as
            in the native class.
        crop_size, patch_size: pixels, an int or (height, width) (the native class wants an int). With
            `frames_per_clip` they say what the model is trained on; clips of any size that divides into tubelets are
            welcome at run time, and their positions are those of their own grid.
        pred_hidden_size, pred_num_hidden_layers, pred_num_attention_heads, pred_mlp_ratio: the predictor.
        pred_num_mask_tokens, pred_zero_init_mask_tokens: its learnt mask tokens, of which a forward uses one, see
            `mask_index` of `VJepa2Model`.
        num_pooler_layers, pooler_num_attention_heads, pooler_layer_norm_eps, classifier_layers: the attentive
            classifier, see `VJepa2ForVideoClassification`.
        num_verbs, num_nouns, num_actions: classes of `VJepa2ForActionAnticipation`; 0 leaves a classifier out.
        use_silu: gated (SwiGLU) feed-forward networks; `wide_silu`: of two thirds of the hidden width, rounded up to a
            multiple of 8.
        rope_layout: "tiled", which the released weights were trained with, or "interleaved", a true rotation; see
            `rotary_tables`.
        rope_interpolation: stretch rows and columns to the positions of a grid of `rope_grid_size` a side, so that
            positions stay in the range that was trained; False counts tokens.
        rescale_residual_init: divide the initial scale of the layers that write into the residual stream by sqrt(2 l).
        target_source, target_normalization, loss_type: see `JepaConfigMixin`.
        sigreg_weight, sigreg_on, sigreg_positions, sigreg_num_slices: see `SigRegConfigMixin`.

    Example:
        >>> from hf_jepa import VJepa2Config
        >>> config = VJepa2Config.from_size("vit_giant", crop_size=384)
        >>> config.intermediate_size, config.grid_size
        (6144, (32, 24, 24))
    """

    target_sources = ("ema", "frozen", "shared", "shared_stopgrad")
    sizes = SIZES

    crop_size: int | list[int] | tuple[int, int] = 256
    use_silu: bool = False
    wide_silu: bool = True
    rope_layout: str = "tiled"
    rope_interpolation: bool = False
    rope_grid_size: int = 16
    rescale_residual_init: bool = True
    pooler_num_attention_heads: int = 16
    pooler_layer_norm_eps: float = 1e-5
    classifier_layers: list[int] | tuple[int, ...] | None = None
    num_verbs: int = 0
    num_nouns: int = 0
    num_actions: int = 0
    loss_type: str = "l1"
    base_model_fsdp_plan = {"encoder.layer.*": "free_full_weight", "encoder.layernorm": "keep_full_weight"}

    def mlp_width(self, dim: int, ratio: float) -> int:
        """Hidden width of a feed-forward network on tokens of width `dim`."""
        width = super().mlp_width(dim, ratio)
        return (int(width * 2 / 3) + 7) // 8 * 8 if self.use_silu and self.wide_silu else width

    def layer_options(self, index: int, depth: int) -> dict[str, Any]:
        """Options of layer `index` of the `depth` ones of encoder or predictor; stochastic depth rises along them."""
        own = {"swiglu": self.use_silu, "drop_path": self.drop_path_rate * index / max(1, depth - 1)}
        return super().layer_options(index, depth) | own

    def validate_rotary(self):
        require_at_least(self, 1, ("rope_grid_size",))
        require_choices(self, rope_layout=LAYOUTS)
        for prefix in ("", "pred_"):
            width, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            try:
                rotary_axis_dim(width // heads)
            except ValueError as error:
                raise ValueError(f"{prefix}hidden_size {width} in {heads} heads: {error}") from error


__all__ = ["SIZES", "VJepa2Config"]
