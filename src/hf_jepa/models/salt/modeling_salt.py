"""SALT (Li et al. 2025, arXiv 2509.24317): V-JEPA with a frozen teacher, which learnt to reconstruct pixels.

Two stages. First an encoder and a predictor reconstruct the pixels of masked tubelets; then that encoder is frozen and
a student, of any size, predicts what it makes of them. No average, so teacher and student may be as unlike as they
like. Encoder and predictor are those of V-JEPA 2.
"""

import copy
from os import PathLike

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple, logging

from hf_jepa.core.clips import Clips, VideoEncoderOutput, as_groups
from hf_jepa.core.configuration import without_path
from hf_jepa.core.modeling import runtime_options
from hf_jepa.core.video import VideoPreTrainingMixin
from hf_jepa.core.video_classification import VideoClassificationMixin
from hf_jepa.layers.patch_embedding import as_clips
from hf_jepa.models.encoders import load_encoder, new_encoder
from hf_jepa.models.salt.configuration_salt import SaltConfig
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2Encoder, VJepa2Predictor, VJepa2PreTrainedModel


logger = logging.get_logger(__name__)


def load_teacher(source: str | PathLike, **kwargs) -> PreTrainedModel:
    """The encoder of a checkpoint, as a teacher.

    Args:
        source: folder or Hub id: a SALT (its student, or what the first stage has trained), any other video variant of
            this package or V-JEPA 2 (the encoder that users want), or an encoder that stock `AutoModel` loads, such as
            a VideoMAE.
        kwargs: as for `from_pretrained`.

    Raises:
        ValueError: weights of the encoder are not in the checkpoint. transformers would draw them at random.

    Example:
        >>> import tempfile
        >>> from hf_jepa import SaltConfig, SaltModel
        >>> config = SaltConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, pred_num_hidden_layers=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     SaltModel(config).save_pretrained(folder)
        ...     type(load_teacher(folder)).__name__
        'SaltModel'
    """
    return load_encoder(source, wanted="a teacher", **kwargs)


def new_teacher(config: PreTrainedConfig) -> PreTrainedModel:
    """A teacher with random weights, which a checkpoint then fills in."""
    return new_encoder(config, others={SaltConfig.model_type: SaltModel})  # which may not be registered


def tubelet_pixels(clips: torch.Tensor, tubelet: tuple[int, int, int]) -> torch.Tensor:
    """Cut clips into the pixels of their tubelets.

    Args:
        clips: (B, T, C, H, W)
        tubelet: (frames, rows, columns) t, h, w of one.

    Returns:
        (B, N, C * t * h * w), row-major over (time, height, width), pixels ordered (channel, frame, row, column).

    Example:
        >>> clips = torch.arange(16.0).view(1, 2, 1, 2, 4)
        >>> tubelet_pixels(clips, (2, 2, 2))[0, 1].tolist()  # the right half
        [2.0, 3.0, 6.0, 7.0, 10.0, 11.0, 14.0, 15.0]
    """
    frames, rows, columns = tubelet
    cut = clips.unfold(1, frames, frames).unfold(3, rows, rows).unfold(4, columns, columns)
    return cut.permute(0, 1, 3, 4, 2, 5, 6, 7).flatten(4).flatten(1, 3)  # from (B, T', C, H', W', t, h, w)


class SaltTeacher(nn.Module):
    """What a SALT learns from: what a frozen encoder says of whole clips, or their pixels.

    Args:
        config: of the SALT.
        model: an encoder whose main input is clips (B, T, C, H, W) and whose output has `last_hidden_state`, one token
            for each tubelet; None for pixels.

    Example:
        >>> from hf_jepa import SaltConfig
        >>> teacher = SaltTeacher(SaltConfig(crop_size=32, patch_size=16, frames_per_clip=4))
        >>> teacher(torch.zeros(1, 4, 3, 32, 32)).last_hidden_state.shape
        torch.Size([1, 8, 1536])
    """

    def __init__(self, config: SaltConfig, model: PreTrainedModel | None = None):
        super().__init__()
        self.config = config
        self.model = model

    @can_return_tuple
    def forward(self, pixel_values_videos: Clips, **kwargs) -> VideoEncoderOutput:
        """`last_hidden_state` (B, N, D) of clips (B, T, C, H, W), or a tuple of these for a list of groups.

        Raises:
            TypeError: an argument that nothing would read.
            ValueError: the encoder gives other tokens than one for each tubelet of the student.
        """
        runtime_options(self, kwargs)
        groups = as_groups(pixel_values_videos)
        tokens = tuple(
            self._encode(as_clips(group, self.config.in_chans, self.config.tubelet_size)) for group in groups
        )
        alone = isinstance(pixel_values_videos, torch.Tensor)
        return VideoEncoderOutput(last_hidden_state=tokens[0] if alone else tokens)

    def _encode(self, clips: torch.Tensor) -> torch.Tensor:
        pixels = tubelet_pixels(clips, self.config.tubelet)
        if self.model is None:
            return pixels
        tokens = self.model(**{self.model.main_input_name: clips}, return_dict=True).last_hidden_state
        if tokens.shape[1] != pixels.shape[1]:
            raise ValueError(
                f"the teacher {type(self.model).__name__} gives {tokens.shape[1]} tokens for clips of shape "
                f"{tuple(clips.shape)}, but the student has {pixels.shape[1]}: take a teacher with the same tubelets "
                "and without further tokens"
            )
        return tokens


class SaltPredictor(VJepa2Predictor):
    """The predictor of V-JEPA 2, whose output is as wide as the targets.

    Example:
        >>> from hf_jepa import SaltConfig, SaltPredictor
        >>> SaltPredictor(SaltConfig(pred_num_hidden_layers=1)).proj
        Linear(in_features=384, out_features=1536, bias=True)
    """

    def __init__(self, config: SaltConfig):
        super().__init__(config)
        self.proj = nn.Linear(config.pred_hidden_size, config.target_size)


class SaltPreTrainedModel(VJepa2PreTrainedModel):
    """Flags and initialisation of all SALT classes."""

    config: SaltConfig
    base_model_prefix = "salt"


class SaltModel(VJepa2Encoder):
    """The encoder of a SALT: its student, or what the first stage has trained on pixels. It is that of V-JEPA 2.

    Example:
        >>> from hf_jepa import SaltConfig, SaltModel
        >>> model = SaltModel(SaltConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, crop_size=32,
        ...                              patch_size=8, frames_per_clip=4)).eval()
        >>> model(torch.randn(1, 4, 3, 32, 32)).last_hidden_state.shape
        torch.Size([1, 32, 32])
    """

    config: SaltConfig
    base_model_prefix = "salt"
    _keys_to_ignore_on_load_unexpected = [r"^teacher\.", r"^predictor\.", r"^classifier\.", r"^pooler\."]


class SaltForPreTraining(VideoPreTrainingMixin, SaltPreTrainedModel):
    """Both stages of SALT: an encoder (`salt`) and a predictor that learn from pixels, or from a frozen teacher.

    Args:
        config: with a `teacher_config` in the second stage.
        teacher: its model, see `from_teacher`. Where the config has one and none is given, its weights are random,
            which a warning says.

    Example:
        >>> from hf_jepa import SaltConfig, SaltForPreTraining
        >>> sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "crop_size": 32, "patch_size": 8,
        ...          "frames_per_clip": 4, "pred_num_hidden_layers": 1}
        >>> order = torch.randperm(32).unsqueeze(0)
        >>> batch = {"pixel_values_videos": torch.randn(1, 4, 3, 32, 32), "context_mask": [order[:, :8]],
        ...          "target_mask": [order[:, 8:]]}
        >>> first = SaltForPreTraining(SaltConfig(hidden_size=32, **sizes))
        >>> first(**batch).targets[0].shape  # 3 channels, 2 frames, 8 x 8 pixels
        torch.Size([1, 24, 384])
        >>> second = SaltForPreTraining.from_teacher(first.salt, SaltConfig(hidden_size=64, **sizes))
        >>> out = second(**batch)
        >>> out.loss.backward()
        >>> out.context[0].shape, out.predictions[0].shape
        (torch.Size([1, 8, 64]), torch.Size([1, 24, 32]))
    """

    context_encoder_name = "salt"
    target_encoder_name = "teacher"

    def __init__(self, config: SaltConfig, teacher: PreTrainedModel | None = None):
        super().__init__(config)
        config = self.config
        self.salt = SaltModel(config)
        if teacher is None and config.teacher_config is not None:
            teacher = new_teacher(config.teacher_config)
            if teacher.device.type != "meta":  # on which `from_pretrained` builds what it then loads
                logger.warning(
                    f"the teacher of this {type(self).__name__}, a {type(teacher).__name__}, has random weights: take "
                    "from_teacher(...) for a trained one"
                )
        self.teacher = SaltTeacher(config, teacher)
        self.predictor = SaltPredictor(config)
        self.post_init()

    @classmethod
    def from_teacher(cls, teacher: str | PathLike | PreTrainedModel, config: SaltConfig) -> "SaltForPreTraining":
        """A new student and predictor for a trained teacher.

        Args:
            teacher: a checkpoint, see `load_teacher`, or a model, which is frozen and becomes part of the new one.
            config: of the student. A copy of it gets the teacher's config.

        Raises:
            ValueError: a checkpoint that lacks weights; a teacher with other tubelets.
        """
        model = teacher if isinstance(teacher, PreTrainedModel) else load_teacher(teacher, dtype="float32")
        config = copy.deepcopy(config)
        config.teacher_config = without_path(model.config)
        if isinstance(model.config, SaltConfig):
            config.teacher_config.teacher_config = None  # what the teacher itself has learnt from is past
        return cls(config, model)

    def start_target_encoder(self) -> None:
        """A teacher never starts as a copy of its student."""

    def mask_token_of(self, group: int, mask: int) -> int:
        """Token g for all masks of group g, as in V-JEPA 2."""
        return group

    def _complete(self, info: dict, source: str) -> None:
        """Refuse checkpoints without student or teacher: neither can be made from the other."""
        if lost := sorted(key for key in info["missing_keys"] if key.startswith(("salt.", "teacher."))):
            raise ValueError(
                f"{source} does not hold a complete {type(self).__name__}: {len(lost)} weights of student and teacher "
                f"are missing, among them {', '.join(lost[:5])}. A new student of a teacher is made by from_teacher"
            )
        super()._complete(info, source)


class SaltForVideoClassification(VideoClassificationMixin, SaltPreTrainedModel):
    """The encoder with the attentive classifier of V-JEPA 2.

    Example:
        >>> from hf_jepa import SaltConfig, SaltForVideoClassification
        >>> model = SaltForVideoClassification(SaltConfig(hidden_size=32, num_hidden_layers=2, num_labels=5,
        ...     num_attention_heads=2, crop_size=32, patch_size=8, frames_per_clip=4))
        >>> model(torch.randn(2, 4, 3, 32, 32)).logits.shape
        torch.Size([2, 5])
    """

    _keys_to_ignore_on_load_unexpected = [r"^teacher\.", r"^predictor\."]
    base_model_class = SaltModel


__all__ = [
    "SaltForPreTraining",
    "SaltForVideoClassification",
    "SaltModel",
    "SaltPreTrainedModel",
    "SaltPredictor",
    "SaltTeacher",
    "load_teacher",
    "new_teacher",
    "tubelet_pixels",
]
