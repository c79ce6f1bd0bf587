"""V-JEPA 2-AC configuration: the encoder of V-JEPA 2, a predictor that is told actions, and its objective."""

from huggingface_hub.dataclasses import strict

from hf_jepa.core.clips import Grid
from hf_jepa.core.validation import require_at_least, require_choices
from hf_jepa.layers.poses import POSE_DIM
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config


ROLLOUT_STARTS = ("corrected", "first_release")
STATE_UPDATES = ("pose", "sum")
# What a config takes over from that of a V-JEPA 2 whose encoder it has.
ENCODER_FIELDS = (
    *("crop_size", "patch_size", "tubelet_size", "in_chans"),
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "hidden_act", "qkv_bias"),
    *("layer_norm_eps", "use_silu", "wide_silu", "rope_layout", "rope_interpolation", "rope_grid_size"),
)


@strict
class VJepa2ACConfig(VJepa2Config):
    """Configuration of a V-JEPA 2-AC. Its defaults beside the encoder are those of the released model.

    The encoder has the fields of V-JEPA 2, and the same predictor goes with each of its sizes. Fields of the mask
    tokens, of classifiers and of SIGReg have no meaning here.

    Args:
        pred_hidden_size, pred_num_hidden_layers, pred_num_attention_heads, pred_mlp_ratio: the predictor.
        crop_size: pixels of every frame, an int or (height, width), also at run time.
        frames_per_clip: frames of a training sample. Each is encoded alone, as a static clip.
        action_dim: numbers of an action.
        state_dim: numbers of a state; 0: the model is not told states.
        state_update: what an action makes of a state where frames are imagined: "pose" composes poses (see
            `compose_poses`), "sum" adds.
        use_extrinsics: the model is told the camera's `extrinsics_dim` numbers as well. Its layer for them exists in
            any case, as in official files.
        is_frame_causal: a token sees its own frame and those before it; False: all frames.
        context_frames: how many frames the predictor sees at most where frames are imagined; all when unset. A window
            that moves along is computed anew at every step.
        auto_steps: frames of the rollout term of the loss, of which the first is a teacher-forced one.
        loss_exp: p of the loss `mean(|difference|^p) / p`; another than 1 goes with `loss_type="l1"` alone.
        rollout_start: "corrected", or "first_release": the rollout goes on from the prediction of frame 2 as though it
            were frame 1. The released weights were trained so.
        target_source: "frozen": the encoder is not trained.
        target_normalization: of targets and of every prediction.
        rope_interpolation, rope_grid_size: of the encoder.
        others: see `VJepa2Config`.

    Example:
        >>> from hf_jepa import VJepa2ACConfig
        >>> config = VJepa2ACConfig.from_size("vit_giant")  # the released model
        >>> config.grid_size, config.num_condition_tokens
        ((8, 16, 16), 2)
    """

    model_type = "vjepa2_ac"
    target_sources = ("frozen",)

    target_source: str = "frozen"
    frames_per_clip: int = 8
    pred_hidden_size: int = 1024
    pred_num_hidden_layers: int = 24
    pred_num_attention_heads: int = 16
    action_dim: int = 7
    state_dim: int = 7
    state_update: str = "pose"
    use_extrinsics: bool = False
    is_frame_causal: bool = True
    context_frames: int | None = None
    auto_steps: int = 2
    loss_exp: float | int = 1.0
    rollout_start: str = "corrected"

    @property
    def grid_size(self) -> Grid:
        """(frames, rows, columns) of the tokens of a sample; each frame has its own."""
        return self.frames_per_clip, *super().grid_size[1:]

    @property
    def extrinsics_dim(self) -> int:
        """Numbers of a camera's pose, which has no gripper."""
        return self.action_dim - 1

    @property
    def num_condition_tokens(self) -> int:
        """Tokens of every frame beside its patches: action, state, camera."""
        return 1 + (self.state_dim > 0) + self.use_extrinsics

    def require_tubelets(self):
        """Frames are encoded one by one, so clips may have any number of them, from two on."""
        if self.tubelet_size < 1 or self.frames_per_clip < 2:
            raise ValueError(
                f"tubelet_size {self.tubelet_size} must be at least 1 and frames_per_clip {self.frames_per_clip} at "
                "least 2: one frame is predicted from another"
            )

    def validate_world_model(self):
        if self.action_dim < 1 or self.state_dim < 0 or (self.use_extrinsics and self.action_dim < 2):
            raise ValueError(
                f"action_dim {self.action_dim} must be at least 1 (with extrinsics 2), state_dim {self.state_dim} at "
                "least 0"
            )
        require_choices(self, state_update=STATE_UPDATES)
        wanted = POSE_DIM if self.state_update == "pose" else self.action_dim
        if self.state_dim and not self.action_dim == self.state_dim == wanted:
            raise ValueError(
                f"state_update={self.state_update!r} does not take actions of {self.action_dim} numbers to states of "
                f"{self.state_dim}: 'pose' needs {POSE_DIM} of each, 'sum' as many of each; state_dim=0 leaves states "
                "out"
            )
        require_at_least(self, 1, ("context_frames",))

    def validate_rollout(self):
        require_choices(self, rollout_start=ROLLOUT_STARTS)
        require_at_least(self, 1, ("auto_steps",))
        if self.fewest_frames > self.frames_per_clip:
            raise ValueError(
                f"auto_steps {self.auto_steps} with rollout_start={self.rollout_start!r} needs {self.fewest_frames} "
                f"frames, but frames_per_clip is {self.frames_per_clip}"
            )
        if not 1 <= self.loss_exp < float("inf") or (self.loss_exp != 1 and self.loss_type != "l1"):
            raise ValueError(
                f"loss_exp {self.loss_exp} must be at least 1, and 1 unless loss_type is 'l1' ({self.loss_type!r})"
            )

    @property
    def fewest_frames(self) -> int:
        """Frames of which the loss can be computed."""
        return max(self.auto_steps + 1, 3 if self.rollout_start == "first_release" else 2)


__all__ = ["ENCODER_FIELDS", "ROLLOUT_STARTS", "STATE_UPDATES", "VJepa2ACConfig"]
