"""V-JEPA 2.1 configuration: that of V-JEPA 2, the levels, the two modalities and the context loss."""

from huggingface_hub.dataclasses import strict

from hf_jepa.core.validation import require_at_least
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config


# Encoder and predictor of the four released models. ViT-B and ViT-L were distilled from ViT-G: one level, heads of the
# width of the teacher. Ratios that are no short decimals are fractions: 64 / 13 gives exactly 8192.
_DISTILLED = {"pred_num_hidden_layers": 12, "pred_num_levels": 1, "teacher_hidden_size": 1664}
SIZES = {
    "vit_base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, **_DISTILLED},
    "vit_large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, **_DISTILLED},
    "vit_giant": {
        "hidden_size": 1408,
        "num_hidden_layers": 40,
        "num_attention_heads": 22,
        "mlp_ratio": 48 / 11,
        "pred_num_hidden_layers": 24,
    },
    "vit_gigantic": {
        "hidden_size": 1664,
        "num_hidden_layers": 48,
        "num_attention_heads": 26,
        "mlp_ratio": 64 / 13,
        "pred_num_hidden_layers": 24,
    },
}
# The official levels, by depth. (Layer 37 of 48 is no slip of ours.)
LEVELS = {12: (2, 5, 8, 11), 24: (5, 11, 17, 23), 40: (9, 19, 29, 39), 48: (11, 23, 37, 47)}


@strict
class VJepa21Config(VJepa2Config):
    """Configuration of a V-JEPA 2.1.

    Its rotary positions are true rotations (`rope_layout="interleaved"`), which the weights of V-JEPA 2 were not
    trained with; hence a `model_type` of its own. Rows and columns are stretched to a grid of `rope_grid_size` a side
    in encoder and predictor (`rope_interpolation`); for patches of 14 pixels the official grid is 18.

    The sizes are those of the released models. To train `vit_base` or `vit_large` by themselves, without the teacher
    of which they were distilled, give `from_size` `pred_num_levels=None` and `teacher_hidden_size=None`.

    Args:
        levels: layers, counted from 0 and rising up to the last, whose outputs are features, each behind its own
            LayerNorm. The official ones when unset, which exist for depths 12, 24, 40 and 48.
        pred_num_levels: the predictor reads and predicts the last so many levels; all when unset, 1 in the distilled
            models.
        teacher_hidden_size: width of each predicted level where the model was distilled from a wider teacher; unset
            for `hidden_size`.
        predict_context: the predictor has a second head, for the tokens that are visible, and the loss a second term.
        modality_embedding: add a learnt vector to all tokens of clips and another one to all tokens of images, in the
            encoder and, with vectors of its own, in the predictor.
        context_loss_weight, image_context_loss_weight: factor of the second term for clips and for images (unset: as
            for clips). `VJepa21ForPreTraining.forward` scales both, for a schedule.
        context_loss_distance: divide the loss of a visible token by the square root of its distance to the nearest
            target, see `context_distance`; the official cooldown switches that off.
        image_loss_weight: share of the images in the loss of a batch that has clips and images, in the official
            training the share of processes that read images.
        others: see `VJepa2Config`.

    Example:
        >>> from hf_jepa import VJepa21Config
        >>> config = VJepa21Config.from_size("vit_gigantic", crop_size=384)
        >>> config.level_indices, config.grid_size
        ((11, 23, 37, 47), (32, 24, 24))
        >>> distilled = VJepa21Config.from_size("vit_base")
        >>> distilled.pred_levels, distilled.pred_output_size
        ((11,), 1664)
    """

    model_type = "vjepa2_1"
    target_sources = ("ema", "frozen")
    sizes = SIZES

    rope_layout: str = "interleaved"
    rope_interpolation: bool = True
    pred_num_mask_tokens: int = 8
    levels: list[int] | tuple[int, ...] | None = None
    pred_num_levels: int | None = None
    teacher_hidden_size: int | None = None
    predict_context: bool = True
    modality_embedding: bool = True
    context_loss_weight: float = 0.5
    image_context_loss_weight: float | None = None
    context_loss_distance: bool = True
    image_loss_weight: float = 0.5

    @property
    def level_indices(self) -> tuple[int, ...]:
        """The layers, counted from 0, whose outputs are features."""
        return LEVELS[self.num_hidden_layers] if self.levels is None else tuple(self.levels)

    @property
    def pred_levels(self) -> tuple[int, ...]:
        """The layers that the predictor reads and predicts."""
        return self.level_indices[-(self.pred_num_levels or len(self.level_indices)) :]

    @property
    def pred_output_size(self) -> int:
        """Features that the predictor gives for a token: those of all its levels."""
        return len(self.pred_levels) * (self.teacher_hidden_size or self.hidden_size)

    def validate_levels(self):
        depth = self.num_hidden_layers
        if self.levels is None and depth not in LEVELS:
            raise ValueError(
                f"there are no official levels for num_hidden_layers {depth}, only for {', '.join(map(str, LEVELS))}: "
                f"give levels, such as [{depth // 2 - 1}, {depth - 1}]"
            )
        levels = list(self.level_indices)
        if levels != sorted({*levels}) or not levels or levels[0] < 0 or levels[-1] != depth - 1:
            raise ValueError(f"levels {levels} must rise from 0 or more up to the last layer, {depth - 1}")
        if self.pred_num_levels is not None and not 1 <= self.pred_num_levels <= len(levels):
            raise ValueError(f"pred_num_levels is {self.pred_num_levels}, but there are {len(levels)} levels")
        require_at_least(self, 1, ("teacher_hidden_size",))

    def validate_context_loss(self):
        require_at_least(self, 0, ("context_loss_weight", "image_context_loss_weight"))
        if not 0 <= self.image_loss_weight <= 1:
            raise ValueError(f"image_loss_weight must be in [0, 1], got {self.image_loss_weight}")


__all__ = ["LEVELS", "SIZES", "VJepa21Config"]
