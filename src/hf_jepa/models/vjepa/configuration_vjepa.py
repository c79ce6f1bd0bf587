"""V-JEPA configuration: fields are named as in native `VJEPA2Config`, which transformers has for the successor."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_jepa.core.regularization import SigRegConfigMixin
from hf_jepa.core.validation import require_at_least, require_choices
from hf_jepa.core.video_configuration import SIZES, VideoConfigMixin


POSITION_RESIZES = ("trilinear", "recompute")


@strict
class VJepaConfig(SigRegConfigMixin, VideoConfigMixin, PreTrainedConfig):
    """Configuration of a V-JEPA: encoder, `pred_*` for the predictor, and the objective.

    Args:
        crop_size, patch_size: pixels, an int or (height, width). With `frames_per_clip` and `tubelet_size` they fix
            the position tables; clips of any other size that divides into tubelets are welcome at run time.
        frames_per_clip, tubelet_size: frames of a clip and of a token. With one frame each the model is one of images,
            and its position tables have two axes.
        in_chans, hidden_size, num_hidden_layers, num_attention_heads, mlp_ratio, hidden_act, qkv_bias, layer_norm_eps,
            attention_probs_dropout_prob, initializer_range: the encoder.
        pred_hidden_size, pred_num_hidden_layers, pred_mlp_ratio: the predictor.
        pred_num_attention_heads: heads of the predictor; the encoder's number when unset, as in the official code.
        pred_num_mask_tokens: its learnt mask tokens: token i stands for the targets of mask i, modulo their number.
        pred_zero_init_mask_tokens: whether mask tokens start at zero, or random as other weights.
        uniform_power: how the channels of the position tables are shared out among time, height and width, see
            `sincos_3d`.
        position_resize: how position tables follow clips of another size: "trilinear" interpolation (bicubic in a
            model of images), as in the official code, or "recompute", the sine-cosine table of the new grid.
        rescale_residual_init: divide the initial scale of the layers that write into the residual stream by sqrt(2 l).
            The official classes do it and the official training undoes it.
        variance_weight: weight of the `variance_loss` of the predictions; 0 leaves it out.
        num_pooler_layers, pooler_num_attention_heads, pooler_layer_norm_eps, classifier_layers: the attentive
            classifier, see `VJepaForVideoClassification`; the encoder's heads when unset, as in the official code.
        target_source, target_normalization, loss_type: see `JepaConfigMixin`.
        sigreg_weight, sigreg_on, sigreg_positions, sigreg_num_slices: see `SigRegConfigMixin`.

    Example:
        >>> from hf_jepa import VJepaConfig
        >>> config = VJepaConfig.from_size("vit_huge", crop_size=384)
        >>> config.hidden_size, config.pred_num_attention_heads, config.grid_size
        (1280, 16, (8, 24, 24))
    """

    model_type = "vjepa"
    attribute_map = VideoConfigMixin.attribute_map | {"variance_coefficient": "variance_weight"}  # of old files
    target_sources = ("ema", "frozen", "shared", "shared_stopgrad")
    sizes = SIZES

    crop_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    frames_per_clip: int = 16
    tubelet_size: int = 2
    in_chans: int = 3
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    mlp_ratio: float | int = 4.0
    hidden_act: str = "gelu"
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float = 0.02
    pred_hidden_size: int = 384
    pred_num_hidden_layers: int = 12
    pred_num_attention_heads: int | None = None
    pred_mlp_ratio: float | int = 4.0
    pred_num_mask_tokens: int = 2
    pred_zero_init_mask_tokens: bool = True
    uniform_power: bool = True
    position_resize: str = "trilinear"
    rescale_residual_init: bool = False
    variance_weight: float | int = 0.0
    num_pooler_layers: int = 0
    pooler_num_attention_heads: int | None = None
    pooler_layer_norm_eps: float = 1e-5
    classifier_layers: list[int] | tuple[int, ...] | None = None
    loss_type: str = "l1"
    base_model_fsdp_plan = {"layer.*": "free_full_weight", "layernorm": "keep_full_weight"}

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.pred_num_attention_heads is None:
            self.pred_num_attention_heads = self.num_attention_heads
        if self.pooler_num_attention_heads is None:
            self.pooler_num_attention_heads = self.num_attention_heads

    @property
    def is_image_model(self) -> bool:
        """Whether clips are single images."""
        return self.frames_per_clip == 1

    def validate_positions(self):
        require_choices(self, position_resize=POSITION_RESIZES)
        multiple = 4 if self.is_image_model else 1 if self.uniform_power else 8
        for name in ("hidden_size", "pred_hidden_size"):
            if getattr(self, name) % multiple:
                raise ValueError(
                    f"{name} {getattr(self, name)} must be a multiple of {multiple} for its position table"
                )

    def validate_variance(self):
        require_at_least(self, 0, ("variance_weight",))


__all__ = ["VJepaConfig"]
