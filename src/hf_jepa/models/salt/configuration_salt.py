"""SALT configuration: that of V-JEPA 2 for the student, and the config of its teacher."""

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_jepa.layers.patch_embedding import pair
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config


@strict
class SaltConfig(VJepa2Config):
    """Configuration of a SALT.

    Without a teacher the targets are pixels: that is the first stage, which makes a teacher. With one they are what
    it says of the whole clip: the second stage.

    Args:
        teacher_config: of the frozen teacher, a config, or a dict with its `model_type` ("vjepa2" unless named); see
            `SaltForPreTraining.from_teacher`, which sets it. Its width may be any, its tubelets must be the student's.
        target_normalization: "layer_norm" also brings the pixels of every tubelet to mean 0 and variance 1.
        others: see `VJepa2Config`.

    Example:
        >>> from hf_jepa import SaltConfig, VJepaConfig
        >>> SaltConfig(tubelet_size=2, patch_size=16).target_size  # pixels of a tubelet
        1536
        >>> SaltConfig.from_size("vit_large", teacher_config=VJepaConfig.from_size("vit_small")).target_size
        384
    """

    model_type = "salt"
    target_sources = ("frozen",)
    sub_configs_defaults = {"teacher_config": SubConfigSpec(AutoConfig, model_type="vjepa2", optional=True)}
    base_model_fsdp_plan = {"layer.*": "free_full_weight", "layernorm": "keep_full_weight"}

    crop_size: int | list[int] | tuple[int, int] = 224
    frames_per_clip: int = 16
    target_source: str = "frozen"
    teacher_config: dict | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs):
        self._make_teacher_config()
        super().__post_init__(**kwargs)
        self._make_teacher_config()  # of a field that goes by another name

    def _make_teacher_config(self) -> None:
        if not isinstance(self.teacher_config, dict):
            return
        model_type = self.teacher_config.get("model_type", "vjepa2")
        # Ours has fields that the native one of V-JEPA 2 lacks; this very class may not be registered.
        known = {"vjepa2": VJepa2Config, self.model_type: SaltConfig}
        if model_type not in known and model_type not in CONFIG_MAPPING:
            raise ValueError(f"teacher_config has the model_type {model_type!r}, which transformers does not know")
        config_class = known[model_type] if model_type in known else CONFIG_MAPPING[model_type]
        self.teacher_config = config_class(**self.teacher_config)

    @property
    def tubelet(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the pixels of a token."""
        return self.tubelet_size, *pair(self.patch_size)

    @property
    def target_size(self) -> int:
        """Width of a target: that of the teacher's tokens, or the number of pixels of a tubelet."""
        if self.teacher_config is not None:
            return self.teacher_config.hidden_size
        frames, rows, columns = self.tubelet
        return self.in_chans * frames * rows * columns

    def validate_teacher(self):
        teacher = self.teacher_config
        if not isinstance(teacher, PreTrainedConfig):
            return
        if not hasattr(teacher, "hidden_size"):
            raise ValueError(
                f"teacher_config of type {teacher.model_type!r} has no hidden_size: not an encoder of clips"
            )
        for name in ("tubelet_size", "patch_size"):
            own, other = getattr(self, name), getattr(teacher, name, None)
            if other is not None and pair(own) != pair(other):
                raise ValueError(f"{name} {own} is not that of the teacher, {other}: tokens would be other places")


__all__ = ["SaltConfig"]
