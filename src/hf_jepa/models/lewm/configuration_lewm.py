"""LeWorldModel configuration: any image encoder, and a causal predictor of frame vectors under actions."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_jepa.core.backbones import POOLINGS, backbone_width
from hf_jepa.core.configuration import JepaConfigMixin
from hf_jepa.core.validation import require_at_least, require_choices, require_rates


# The released models: a ViT of 192 channels with patches of 14 pixels. The norms have the epsilon of transformers.
PUBLISHED_ENCODER = {
    "model_type": "vit",
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "image_size": 224,
    "patch_size": 14,
    "layer_norm_eps": 1e-12,
}
SIZES = {"vit_tiny_patch14": {"backbone_config": PUBLISHED_ENCODER}}
_AT_LEAST_ONE = (
    "action_dim",
    "frame_skip",
    "hidden_size",
    "proj_hidden_size",
    "action_smoothed_size",
    "action_mlp_ratio",
    "context_frames",
    "pred_num_hidden_layers",
    "pred_num_attention_heads",
    "pred_head_dim",
    "pred_intermediate_size",
    "sigreg_num_slices",
)


@strict
class LeWorldModelConfig(JepaConfigMixin, PreTrainedConfig):
    """Configuration of a LeWorldModel (2603.19312). The defaults are the released models, of about 18M parameters.

    Args:
        backbone_config: a config, or the fields of one with its `model_type` ("vit" if it has none), of any model of
            transformers that takes images. Default: ViT-tiny, patches of 14 pixels, 224 pixels.
        pooling: how a frame becomes one vector, see `hf_jepa.core.backbones.Pooling`.
        hidden_size: width D of the embeddings of frames and actions, and of the predictor.
        proj_hidden_size: width of the hidden layer of both projectors.
        action_dim: A, numbers of an action of the model: those of all primitive actions from one frame to the next,
            one after the other.
        frame_skip: how many primitive actions that are; 5 in the released models.
        state_dim: 0: the model is not told states.
        frames_per_clip: frames of a training sample, at most one more than `context_frames`.
        context_frames: frames of the longest window that the predictor reads.
        action_smoothed_size, action_mlp_ratio: widths of the action encoder: A to the first, from there to
            `action_mlp_ratio * hidden_size`, and to `hidden_size`.
        pred_num_hidden_layers, pred_num_attention_heads, pred_head_dim, pred_intermediate_size, pred_dropout: of the
            predictor. Its attention is `pred_num_attention_heads * pred_head_dim` wide, whatever `hidden_size` is.
        sigreg_weight: of SIGReg. The statistic has the batch size as a factor, so a weight belongs to a batch size.
        sigreg_num_slices, sigreg_t_max, sigreg_num_points: see `hf_jepa.losses.sigreg.sigreg`.
        loss_type: how predictions are compared, see `JepaConfigMixin`; officially "mse".
        target_source, target_normalization: "shared", "none": the objective has no other form.

    Example:
        >>> from hf_jepa import LeWorldModelConfig
        >>> config = LeWorldModelConfig(action_dim=10)
        >>> config.hidden_size, config.image_size, config.latent_shape
        (192, 224, (192,))
    """

    model_type = "lewm"
    sizes = SIZES
    attribute_map: ClassVar[dict[str, str]] = {"num_context_frames": "context_frames"}  # of checkpoints saved before
    target_sources: ClassVar[tuple[str, ...]] = ("shared",)
    sub_configs_defaults: ClassVar[dict] = {"backbone_config": SubConfigSpec(AutoConfig, model_type="vit")}

    backbone_config: dict | PreTrainedConfig | None = None
    pooling: str = "cls"
    hidden_size: int = 192
    proj_hidden_size: int = 2048
    action_dim: int = 10
    frame_skip: int = 5
    state_dim: int = 0
    frames_per_clip: int = 4
    context_frames: int = 3
    action_smoothed_size: int = 10
    action_mlp_ratio: int = 4
    pred_num_hidden_layers: int = 6
    pred_num_attention_heads: int = 16
    pred_head_dim: int = 64
    pred_intermediate_size: int = 2048
    pred_dropout: float | int = 0.1
    sigreg_weight: float | int = 0.09
    sigreg_num_slices: int = 1024
    sigreg_t_max: float | int = 3.0
    sigreg_num_points: int = 17
    target_source: str = "shared"
    target_normalization: str = "none"
    loss_type: str = "mse"

    def __post_init__(self, **kwargs):
        if not isinstance(self.backbone_config, PreTrainedConfig):
            fields = PUBLISHED_ENCODER if self.backbone_config is None else self.backbone_config
            self.backbone_config = AutoConfig.for_model(**({"model_type": "vit"} | fields))
        super().__post_init__(**kwargs)

    @classmethod
    def from_size(cls, size: str, backbone_config: dict | None = None, **overrides) -> "LeWorldModelConfig":
        """The config of a named size ("vit_tiny_patch14", the released one), any field of which can be overridden.

        Args:
            size: its name.
            backbone_config: fields of the encoder that replace those of the size.
            overrides: any other fields.

        Raises:
            ValueError: an unknown size.
        """
        if backbone_config is not None and size in SIZES:
            overrides["backbone_config"] = SIZES[size]["backbone_config"] | backbone_config
        return super().from_size(size, **overrides)

    @property
    def image_size(self) -> int | list[int]:
        """Pixels of a frame, as the encoder's config says."""
        return getattr(self.backbone_config, "image_size", 224)

    @property
    def num_channels(self) -> int:
        """Channels of a frame."""
        return getattr(self.backbone_config, "num_channels", 3)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of what the model says of a frame."""
        return (self.hidden_size,)

    def validate_lewm(self):
        require_at_least(self, 1, _AT_LEAST_ONE)
        require_choices(self, pooling=POOLINGS, target_normalization=("none",))
        if self.state_dim:
            raise ValueError(f"state_dim={self.state_dim}: a LeWorldModel is not told states, leave it 0")
        if self.action_dim % self.frame_skip:
            raise ValueError(
                f"action_dim {self.action_dim} is not {self.frame_skip} primitive actions (frame_skip) one after the "
                "other"
            )
        if not 2 <= self.frames_per_clip <= self.context_frames + 1:
            raise ValueError(
                f"frames_per_clip {self.frames_per_clip} must be from 2 to {self.context_frames + 1}: each frame "
                f"but the first is predicted, from at most context_frames={self.context_frames}"
            )

    def validate_numbers(self):
        require_rates(self, "pred_dropout")
        require_at_least(self, 0, ("sigreg_weight",))
        if not 0 < self.sigreg_t_max < float("inf"):
            raise ValueError(f"sigreg_t_max must be above 0 and finite, got {self.sigreg_t_max}")
        require_at_least(self, 2, ("sigreg_num_points",))
        if isinstance(self.backbone_config, PreTrainedConfig):
            backbone_width(self.backbone_config)


__all__ = ["PUBLISHED_ENCODER", "SIZES", "LeWorldModelConfig"]
