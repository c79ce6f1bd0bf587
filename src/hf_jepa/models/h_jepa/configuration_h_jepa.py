"""H-JEPA configuration: a world model, and levels above it that predict farther with fewer steps."""

from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_jepa.core.validation import require_at_least, require_choices


CHOICES = {
    "state": ("shared", "learned"),
    "macro_encoder": ("mlp", "gru", "mean"),
    "predictor": ("mlp", "gru"),
    "loss_type": ("mse", "l1"),
    "regularizer": (None, "vc", "sigreg"),
}
_AT_LEAST_ONE = ("stride", "macro_action_dim", "macro_hidden_size", "pred_hidden_size", "pred_num_layers")


@dataclass(frozen=True, kw_only=True)
class HJepaLevel:
    """One level above the world model. The defaults are those of the published two-level model where it says them.

    Args:
        stride: steps of the level below that one step of this level is.
        macro_encoder: how the actions of these steps become one macro-action: an "mlp" of all of them in a row, the
            last state of a "gru", or their "mean", which has nothing to learn.
        macro_action_dim: numbers of a macro-action; with "mean" that of the actions below.
        macro_hidden_size: width of the macro-action encoder.
        state: "shared", the states of the level below as they are, so that a prediction here is a goal there; or
            "learned", a network of them, which nobody has shown to work: experimental.
        state_dim: width of a learned state.
        predictor: "mlp", residual, of state and macro-action; or a "gru", whose hidden state is the state.
        pred_hidden_size, pred_num_layers: width and number of hidden layers of the "mlp".
        loss_type: "mse" or "l1".
        coefficient: of this level's loss in the sum.
        regularizer: what keeps a learned state from collapse: "vc" (variance and covariance, as in VICReg) or
            "sigreg".
        regularizer_weight: of that term.

    Raises:
        ValueError: a value that makes no sense; it is named.

    Example:
        >>> HJepaLevel(stride=8).macro_action_dim
        8
    """

    stride: int = 10
    macro_encoder: str = "mlp"
    macro_action_dim: int = 8
    macro_hidden_size: int = 32
    state: str = "shared"
    state_dim: int | None = None
    predictor: str = "mlp"
    pred_hidden_size: int = 512
    pred_num_layers: int = 2
    loss_type: str = "mse"
    coefficient: float = 1.0
    regularizer: str | None = None
    regularizer_weight: float = 1.0

    def __post_init__(self):
        require_choices(self, **CHOICES)
        for name in _AT_LEAST_ONE:
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        require_at_least(self, 0, ("coefficient", "regularizer_weight"))
        learned = self.state == "learned"
        if learned != (self.state_dim is not None):
            raise ValueError(
                f"state={self.state!r} with state_dim={self.state_dim}: a learned state, and no other, has one"
            )
        if learned != (self.regularizer is not None):
            raise ValueError(
                f"state={self.state!r} with regularizer={self.regularizer!r}: a learned state collapses without one, "
                "and a shared one is not trained here"
            )
        require_at_least(self, 1, ("state_dim",))


@strict
class HJepaConfig(PreTrainedConfig):
    """Configuration of a hierarchical world model: a world model (level 0) and one or more levels above it.

    Args:
        world_model_config: of level 0, a config or the fields of one with its `model_type` ("eb_jepa" if it has none):
            a world model of this package that says its `latent_shape`. It is trained before, and frozen here.
        levels: of each level above it, from below, the fields of an `HJepaLevel`. Default: one, of stride 10.
        frames_per_clip: frames of a training sample; those after the last whole step of the top level are left out
            there. Default: five steps of it.

    Example:
        >>> from hf_jepa import HJepaConfig
        >>> config = HJepaConfig(levels=[{"stride": 5}, {"stride": 4, "macro_action_dim": 4}])
        >>> config.strides, config.frames_per_clip, config.hidden_size
        ((5, 20), 101, 512)
    """

    model_type = "h_jepa"
    sub_configs_defaults: ClassVar[dict] = {"world_model_config": SubConfigSpec(AutoConfig, model_type="eb_jepa")}

    world_model_config: dict | PreTrainedConfig | None = None
    levels: list | tuple | None = None
    frames_per_clip: int | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any):
        if not isinstance(self.world_model_config, PreTrainedConfig):
            given = self.world_model_config or {}
            self.world_model_config = AutoConfig.for_model(**({"model_type": "eb_jepa"} | given))
        self.levels = [asdict(_level(number, given)) for number, given in enumerate(self.levels or [{}], start=1)]
        if self.frames_per_clip is None:
            self.frames_per_clip = 5 * self.strides[-1] + 1
        super().__post_init__(**kwargs)

    @property
    def upper_levels(self) -> list[HJepaLevel]:
        """The levels above the world model, from below."""
        return [HJepaLevel(**fields) for fields in self.levels]

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames of one step of each upper level: products of the strides up to it."""
        own = [fields["stride"] for fields in self.levels]
        return tuple(prod(own[: number + 1]) for number in range(len(own)))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of a frame, at level 0."""
        return tuple(self.world_model_config.latent_shape)

    @property
    def hidden_size(self) -> int:
        """Width of the latents of level 0."""
        return self.world_model_config.hidden_size

    @property
    def action_dim(self) -> int:
        """Numbers of a primitive action."""
        return self.world_model_config.action_dim

    @property
    def state_dim(self) -> int:
        """Numbers of a state that level 0 is told; 0 where it is told none."""
        return self.world_model_config.state_dim

    @property
    def image_size(self) -> int | list[int] | tuple[int, ...]:
        """Pixels of a frame."""
        return self.world_model_config.image_size

    @property
    def num_channels(self) -> int:
        """Channels of a frame."""
        return self.world_model_config.num_channels

    def validate_h_jepa(self):
        kind = self.world_model_config.model_type
        if not hasattr(self.world_model_config, "latent_shape"):
            raise ValueError(
                f"world_model_config is of a {kind!r} model, which does not say its latent_shape: take a world model "
                "of a vector or map per frame, such as 'eb_jepa' or 'lewm'"
            )
        if not self.action_dim:
            raise ValueError(f"world_model_config is of a {kind!r} model without actions (action_dim 0)")
        below = self.action_dim
        for number, level in enumerate(self.upper_levels, start=1):
            if level.macro_encoder == "mean" and level.macro_action_dim != below:
                raise ValueError(
                    f"level {number} has macro_action_dim {level.macro_action_dim}, but the mean of actions of "
                    f"{below} numbers has as many: set macro_action_dim={below}"
                )
            below = level.macro_action_dim
        if self.frames_per_clip <= self.strides[-1]:
            raise ValueError(
                f"frames_per_clip {self.frames_per_clip} must be above {self.strides[-1]}, one step of the top level"
            )


def _level(number: int, given: object) -> HJepaLevel:
    known = [field.name for field in fields(HJepaLevel)]
    if not isinstance(given, dict) or (unknown := [name for name in given if name not in known]):
        wrong = f"fields {unknown}" if isinstance(given, dict) else f"a {type(given).__name__}"
        raise ValueError(f"level {number} has {wrong}, expected fields of {', '.join(known)}")
    try:
        return HJepaLevel(**given)
    except ValueError as error:
        raise ValueError(f"level {number}: {error}") from error


__all__ = ["HJepaConfig", "HJepaLevel"]
