"""EB-JEPA configuration: the networks, how predictions are unrolled, and the terms of the regulariser."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_jepa.core.backbones import POOLINGS, backbone_width
from hf_jepa.core.configuration import JepaConfigMixin
from hf_jepa.core.validation import require_at_least, require_choices, require_heads, require_positive
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.losses.vicreg import VIDEO_SAMPLES


# Which predictors read what an encoder says: vectors, or maps of the size of the image.
ENCODERS = {"impala": ("gru", "transformer"), "backbone": ("gru", "transformer"), "resnet5": ("conv",)}
CHOICES = {
    "encoder_type": tuple(ENCODERS),
    "action_encoder_type": ("identity", "mlp"),
    "predictor_type": ("gru", "conv", "transformer"),
    "unroll_mode": ("autoregressive", "parallel"),
    "window_indexing": ("corrected", "official"),
    "projected_axes": ("corrected", "official"),
    "regularization_samples": VIDEO_SAMPLES,
    "pooling": POOLINGS,
    "target_normalization": ("none",),
}

# The two examples of the official library that predict.
SIZES = {
    "two_rooms": {},
    "moving_mnist": {
        "image_size": 64,
        "num_channels": 1,
        "frames_per_clip": 10,
        "action_dim": 0,
        "encoder_type": "resnet5",
        "encoder_hidden_sizes": [32, 32, 64],
        "hidden_size": 16,
        "predictor_type": "conv",
        "pred_hidden_size": 32,
        "context_frames": 2,
        "unroll_mode": "parallel",
        "num_unroll_steps": 4,
        "proj_sizes": [64, 64],
        "project_predictions": True,
        "regularization_samples": "all_t_spatial",
        "variance_weight": 10.0,
        "covariance_weight": 100.0,
        "similarity_weight": 0.0,
        "inverse_dynamics_weight": 0.0,
    },
}


@strict
class EbJepaConfig(JepaConfigMixin, PreTrainedConfig):
    """Configuration of an EB-JEPA. The defaults are the published model of two rooms.

    Args:
        image_size, num_channels: of a frame, an int or (height, width). A "resnet5" takes other sizes at run time.
        frames_per_clip: frames of a training clip.
        action_dim: numbers of an action; 0 for a model of videos without actions.
        state_dim: 0, because the model is not told where the agent is.
        hidden_size: width of a latent: of the vector of a frame, or of each pixel of its map ("resnet5").
        encoder_type: "impala", one vector per frame; "resnet5", a map of the size of the frame; "backbone", one vector
            per frame from any vision model of transformers.
        encoder_hidden_sizes: widths of the stacks of an "impala"; of the stem and the first two blocks of a "resnet5".
        encoder_num_blocks: residual blocks of each stack of an "impala".
        backbone_config, pooling: the "backbone" and how its features become one vector, see
            `hf_jepa.core.multi_view_configuration.MultiViewConfigMixin`.
        action_encoder_type, action_hidden_size: "identity", or an "mlp" of two layers of that width.
        predictor_type: "gru", whose hidden state is the latent and whose input is the action; "conv", a U-Net over the
            maps of a window; "transformer" over the vectors of a window.
        pred_hidden_size: width of the "conv" at full size, and of the "transformer".
        pred_num_hidden_layers, pred_num_attention_heads: of the "transformer".
        context_frames: frames of the window that the predictor reads, 1 for a "gru".
        unroll_mode: "autoregressive", from the first window of a clip, or "parallel", from every window at once.
        num_unroll_steps: predictions on top of one another in training.
        window_indexing: what autoregressive predictions from more than one frame are compared with. "corrected": the
            frames after the window. "official": the frames after the first one, as in the official code.
        proj_sizes: widths of the projector of the regulariser, None without one.
        project_predictions: compare predictions after that projector.
        variance_weight, covariance_weight, similarity_weight, inverse_dynamics_weight: of the regulariser's terms.
        variance_margin: the standard deviation that each feature should have.
        regularization_samples: what the rows of variance and covariance are, see
            `hf_jepa.losses.vicreg.video_vc_terms`.
        similarity_after_projector, inverse_dynamics_after_projector: whether these terms see projected latents.
        projected_axes: how they read them. "corrected": as clips of frames. "official": the official code takes the
            axes (B, T, H, W, C) for (B, C, T, H, W) there, which mixes clips and times.
        inverse_dynamics_hidden_size: width of the network that reads actions off two frames.
        loss_type: how predictions are compared, see `JepaConfigMixin`; officially "mse".
        target_source, target_normalization: "shared", "none": the objective has no other form.

    Example:
        >>> from hf_jepa import EbJepaConfig
        >>> config = EbJepaConfig.from_size("moving_mnist", variance_weight=100.0)
        >>> config.predictor_type, config.context_frames
        ('conv', 2)
    """

    model_type = "eb_jepa"
    sizes = SIZES
    target_sources: ClassVar[tuple[str, ...]] = ("shared",)
    sub_configs_defaults: ClassVar[dict] = {
        "backbone_config": SubConfigSpec(AutoConfig, model_type="vit", optional=True)
    }

    image_size: int | list[int] | tuple[int, ...] = 65
    num_channels: int = 2
    frames_per_clip: int = 17
    action_dim: int = 2
    state_dim: int = 0
    hidden_size: int = 512
    encoder_type: str = "impala"
    encoder_hidden_sizes: list[int] | tuple[int, ...] = (16, 32, 32)
    encoder_num_blocks: int = 2
    backbone_config: dict | PreTrainedConfig | None = None
    pooling: str = "auto"
    action_encoder_type: str = "identity"
    action_hidden_size: int = 64
    predictor_type: str = "gru"
    pred_hidden_size: int = 256
    pred_num_hidden_layers: int = 2
    pred_num_attention_heads: int = 4
    context_frames: int = 1
    unroll_mode: str = "autoregressive"
    num_unroll_steps: int = 8
    window_indexing: str = "corrected"
    proj_sizes: list[int] | tuple[int, ...] | None = None
    project_predictions: bool = False
    variance_weight: float | int = 16.0
    covariance_weight: float | int = 8.0
    similarity_weight: float | int = 12.0
    inverse_dynamics_weight: float | int = 1.0
    variance_margin: float | int = 1.0
    regularization_samples: str = "all_t"
    similarity_after_projector: bool = False
    inverse_dynamics_after_projector: bool = False
    projected_axes: str = "corrected"
    inverse_dynamics_hidden_size: int = 256
    target_source: str = "shared"
    target_normalization: str = "none"
    loss_type: str = "mse"
    # transformers ties what a model declares only where this is set; here it is the norm of encoder and predictor.
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.backbone_config, dict):
            self.backbone_config = AutoConfig.for_model(**({"model_type": "vit"} | self.backbone_config))
        super().__post_init__(**kwargs)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of a frame: (D,), or (D, H, W) for a map."""
        return (self.hidden_size, *pair(self.image_size)) if self.encoder_type == "resnet5" else (self.hidden_size,)

    @property
    def action_size(self) -> int:
        """Width of an encoded action."""
        return self.action_hidden_size if self.action_encoder_type == "mlp" and self.action_dim else self.action_dim

    def validate_choices(self):
        require_choices(self, **CHOICES)

    def validate_sizes(self):
        names = (
            "num_channels",
            "frames_per_clip",
            "hidden_size",
            "encoder_num_blocks",
            "action_hidden_size",
            "pred_hidden_size",
            "pred_num_hidden_layers",
            "pred_num_attention_heads",
            "context_frames",
            "num_unroll_steps",
            "inverse_dynamics_hidden_size",
        )
        require_at_least(self, 1, names)
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"image_size {self.image_size} is neither a number of pixels nor (height, width)")
        if min(pair(self.image_size)) < 1:
            raise ValueError(f"image_size {self.image_size} has no pixel")
        for name in ("encoder_hidden_sizes", "proj_sizes"):
            sizes = getattr(self, name)
            if sizes is not None and (not sizes or min(sizes) < 1):
                raise ValueError(f"{name} {list(sizes)} must be one or more positive widths")
        if self.encoder_type == "resnet5" and len(self.encoder_hidden_sizes) != 3:
            raise ValueError(
                f"encoder_hidden_sizes {list(self.encoder_hidden_sizes)} of a 'resnet5' must be three widths, of its "
                "stem and of its first two blocks"
            )
        if self.predictor_type == "transformer":
            require_heads(self, "pred_")

    def validate_networks(self):
        if self.predictor_type not in ENCODERS.get(self.encoder_type, (self.predictor_type,)):
            raise ValueError(
                f"predictor_type={self.predictor_type!r} does not read what encoder_type={self.encoder_type!r} says: "
                f"take {' or '.join(ENCODERS[self.encoder_type])}"
            )
        if (self.encoder_type == "backbone") != (self.backbone_config is not None):
            raise ValueError(
                f"encoder_type={self.encoder_type!r} with a backbone_config of type "
                f"{type(self.backbone_config).__name__}: encoder_type='backbone' needs one, and no other reads it"
            )
        if isinstance(self.backbone_config, PreTrainedConfig):
            backbone_width(self.backbone_config)
        if self.predictor_type == "gru" and self.context_frames != 1:
            raise ValueError(f"context_frames={self.context_frames}: a 'gru' reads one frame, take a 'transformer'")

    def validate_actions(self):
        if self.action_dim < 0 or self.state_dim != 0:
            raise ValueError(
                f"action_dim must be 0 or more, got {self.action_dim}; state_dim must be 0, got {self.state_dim}, "
                "because the model reads no states"
            )
        if self.action_dim == 0 and self.predictor_type == "gru":
            raise ValueError("action_dim=0: a 'gru' has actions for its input, take predictor_type='transformer'")
        if self.action_dim == 0 and self.inverse_dynamics_weight:
            raise ValueError(
                f"inverse_dynamics_weight={self.inverse_dynamics_weight} needs actions, but action_dim is 0: set it "
                "to 0"
            )
        if self.window_indexing == "official" and self.context_frames > 1 and self.action_dim:
            raise ValueError(
                f"window_indexing='official' gives the first predictions fewer actions than their "
                f"{self.context_frames} frames: with actions take 'corrected'"
            )

    def validate_objective_of_clips(self):
        weights = ("variance_weight", "covariance_weight", "similarity_weight", "inverse_dynamics_weight")
        require_at_least(self, 0, weights)
        require_positive(self, "variance_margin")
        if self.proj_sizes is None:
            for name in ("project_predictions", "similarity_after_projector", "inverse_dynamics_after_projector"):
                if getattr(self, name):
                    raise ValueError(f"{name}=True needs a projector: give proj_sizes")
        needed = self.fewest_frames
        if self.frames_per_clip < needed:
            raise ValueError(
                f"frames_per_clip {self.frames_per_clip} is less than the {needed} frames that context_frames="
                f"{self.context_frames} and num_unroll_steps={self.num_unroll_steps} ask for"
            )

    @property
    def fewest_frames(self) -> int:
        """Frames of a clip of which the loss can be computed."""
        if self.unroll_mode == "parallel":
            return self.context_frames + 1
        return self.context_frames + self.num_unroll_steps


__all__ = ["SIZES", "EbJepaConfig"]
