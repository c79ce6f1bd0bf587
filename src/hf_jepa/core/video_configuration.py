"""What the configs of all video variants have in common: sizes of clips, tokens and networks."""

from transformers.activations import ACT2FN

from hf_jepa.core.clips import Grid
from hf_jepa.core.configuration import JepaConfigMixin
from hf_jepa.layers.patch_embedding import pair


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

    def validate_geometry(self):
        for name in ("crop_size", "patch_size"):
            if not isinstance(size := getattr(self, name), int) and len(size) != 2:
                raise ValueError(f"{name} {size} is neither a number of pixels nor (height, width)")
        (height, width), patch = pair(self.crop_size), pair(self.patch_size)
        if min(patch) < 1 or min(height, width) < 1 or height % patch[0] or width % patch[1]:
            raise ValueError(f"crop_size {self.crop_size} does not divide into patches of {self.patch_size} pixels")
        self.require_tubelets()

    def require_tubelets(self):
        """Refuse clips that do not divide into tubelets."""
        if self.tubelet_size < 1 or self.frames_per_clip < 1 or self.frames_per_clip % self.tubelet_size:
            raise ValueError(
                f"frames_per_clip {self.frames_per_clip} does not divide into tubelets of {self.tubelet_size} frames"
            )

    def validate_networks(self):
        for name in ("num_hidden_layers", "pred_num_hidden_layers", "pred_num_mask_tokens", "in_chans"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for prefix in ("", "pred_"):
            width, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            heads = self.num_attention_heads if heads is None else heads  # where unset means those of the encoder
            if heads < 1 or width < 1 or width % heads:
                raise ValueError(f"{prefix}hidden_size {width} must be a multiple of its {heads} attention heads")
            if not 1 <= self.mlp_width(width, getattr(self, f"{prefix}mlp_ratio")) < 2**31:
                raise ValueError(f"{prefix}mlp_ratio {getattr(self, f'{prefix}mlp_ratio')} gives no width")
        for name in ("layer_norm_eps", "initializer_range"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("attention_probs_dropout_prob", "attention_dropout", "drop_path_rate"):
            if not 0 <= getattr(self, name, 0.0) < 1:  # not every variant has them all
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not self.pooler_layer_norm_eps > 0 or self.num_pooler_layers < 0:
            raise ValueError(
                f"pooler_layer_norm_eps {self.pooler_layer_norm_eps} must be above 0, num_pooler_layers "
                f"{self.num_pooler_layers} not below"
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act={self.hidden_act!r} is not one of {', '.join(ACT2FN)}")


__all__ = ["VideoConfigMixin"]
