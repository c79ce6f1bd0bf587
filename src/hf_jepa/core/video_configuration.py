"""What the configs of all video variants have in common: sizes of clips, tokens and networks."""

from typing import Any

from hf_jepa.core.clips import Grid
from hf_jepa.core.configuration import JepaConfigMixin
from hf_jepa.core.validation import (
    require_activations,
    require_at_least,
    require_heads,
    require_patches,
    require_positive,
    require_rates,
)
from hf_jepa.layers.patch_embedding import pair


# The encoders of the official code. The fraction is exact where a short decimal is not: 48 / 11 gives 6144.
SIZES = {
    "vit_tiny": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3},
    "vit_small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "vit_base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vit_large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "vit_huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16},
    "vit_giant": {"hidden_size": 1408, "num_hidden_layers": 40, "num_attention_heads": 16, "mlp_ratio": 48 / 11},
}


class VideoConfigMixin(JepaConfigMixin):
    """Token grid, widths and their validation, for configs with the field names of native `VJEPA2Config`.

    Example:
        >>> from hf_jepa import VJepa2Config
        >>> VJepa2Config(crop_size=[256, 384], frames_per_clip=16).grid_size
        (8, 16, 24)
    """

    # `num_frames` is what the video pipeline of transformers asks for.
    attribute_map = {"image_size": "crop_size", "num_channels": "in_chans", "num_frames": "frames_per_clip"}

    @property
    def grid_size(self) -> Grid:
        """(frames, rows, columns) of the token grid of `frames_per_clip` frames at `crop_size`."""
        (height, width), patch = pair(self.crop_size), pair(self.patch_size)
        return self.frames_per_clip // self.tubelet_size, height // patch[0], width // patch[1]

    @property
    def intermediate_size(self) -> int:
        """Hidden width of the encoder's feed-forward networks."""
        return self.mlp_width(self.hidden_size, self.mlp_ratio)

    def mlp_width(self, dim: int, ratio: float) -> int:
        """Hidden width of a feed-forward network on tokens of width `dim`."""
        return int(dim * ratio)

    def layer_options(self, index: int, depth: int) -> dict[str, Any]:
        """Options of layer `index` of the `depth` ones of encoder or predictor, see `PackedTransformerLayer`."""
        return {
            "layer_norm_eps": self.layer_norm_eps,
            "qkv_bias": self.qkv_bias,
            "hidden_act": self.hidden_act,
            "attention_dropout": self.attention_probs_dropout_prob,
            "residual_init_divisor": (2.0 * (index + 1)) ** 0.5 if self.rescale_residual_init else 1.0,
        }

    def validate_geometry(self):
        require_patches(self, "crop_size")
        self.require_tubelets()

    def require_tubelets(self):
        """Refuse clips that do not divide into tubelets."""
        if self.tubelet_size < 1 or self.frames_per_clip < 1 or self.frames_per_clip % self.tubelet_size:
            raise ValueError(
                f"frames_per_clip {self.frames_per_clip} does not divide into tubelets of {self.tubelet_size} frames"
            )

    def validate_networks(self):
        require_at_least(self, 1, ("num_hidden_layers", "pred_num_hidden_layers", "pred_num_mask_tokens", "in_chans"))
        for prefix in ("", "pred_"):
            require_heads(self, prefix)
            ratio = getattr(self, f"{prefix}mlp_ratio")
            if not 1 <= self.mlp_width(getattr(self, f"{prefix}hidden_size"), ratio) < 2**31:
                raise ValueError(f"{prefix}mlp_ratio {ratio} gives no width")
        require_positive(self, "layer_norm_eps", "initializer_range")
        rates = ("attention_probs_dropout_prob", "attention_dropout", "drop_path_rate")
        require_rates(self, *(name for name in rates if hasattr(self, name)))  # not every variant has them all
        require_positive(self, "pooler_layer_norm_eps")
        require_at_least(self, 0, ("num_pooler_layers",))
        require_activations(self, "hidden_act")


__all__ = ["SIZES", "VideoConfigMixin"]
