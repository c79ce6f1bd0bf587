"""What the pretraining programs of all modalities share: the model they begin with, and how they run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging

from hf_jepa.core.configuration import require_model_fields
from hf_jepa.core.modeling import JepaPreTrainingMixin
from hf_jepa.hub.run_folders import require_finished
from hf_jepa.registry import Variant
from hf_jepa.training.adapters import AdapterArguments
from hf_jepa.training.run_cards import LicenseArguments


logger = logging.get_logger(__name__)


@dataclass(kw_only=True)
class StartArguments(LicenseArguments):
    """The model that a run begins with."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Checkpoint to continue from."})
    model_size: str | None = field(default=None, metadata={"help": "Named size of a fresh model, e.g. vit_huge."})
    model_config: dict | str | None = field(default=None, metadata={"help": "Config fields of a fresh model (JSON)."})

    def __post_init__(self):
        if isinstance(self.model_config, str):
            self.model_config = json.loads(self.model_config)

    def fresh_config(self, variant: Variant) -> PreTrainedConfig:
        """The config of a fresh model."""
        config_class, fields = variant.config_class(), self.model_config or {}
        require_model_fields(config_class, fields)
        return config_class.from_size(self.model_size, **fields) if self.model_size else config_class(**fields)


@dataclass(kw_only=True)
class ModelArguments(AdapterArguments, StartArguments):
    """The model of a pretraining run."""

    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint of the frozen teacher of a fresh model (SALT)."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.lora_rank and self.model_name_or_path is None:
            raise ValueError("lora_rank adapts a checkpoint: say which by model_name_or_path")

    def part(self) -> str | None:
        return self.teacher_name_or_path


def build_model(variant: Variant, arguments: ModelArguments) -> JepaPreTrainingMixin:
    """A fresh model, or the checkpoint to continue from in float32, which brings its own size."""
    if arguments.model_name_or_path:
        require_finished(arguments.model_name_or_path)
        if arguments.model_size or arguments.model_config:
            logger.warning(f"{arguments.model_name_or_path} has a config: model_size and model_config are not used")
        return variant.model_class().from_pretrained(arguments.model_name_or_path, dtype="float32")
    model_class, config = variant.model_class(), arguments.fresh_config(variant)
    teacher = arguments.teacher_name_or_path
    if not teacher:
        return model_class(config)
    if not hasattr(model_class, "from_teacher"):
        raise ValueError(f"teacher_name_or_path {teacher!r}: {variant.title} takes no teacher")
    return model_class.from_teacher(teacher, config)


def continue_model(variant: Variant, checkpoint: str, fields: Mapping[str, Any]) -> JepaPreTrainingMixin:
    """A checkpoint in float32, with other values of config fields: larger frames, longer clips, another loss.

    Fixed tables, such as sine-cosine positions, are computed anew for them. Without a target encoder of its own
    (`target_source`) a model goes on from the one that the checkpoint has.

    Args:
        variant: of the checkpoint.
        checkpoint: folder or Hub id.
        fields: of its config, to be changed.

    Raises:
        ValueError: an unknown field, or values that the weights do not fit.
    """
    config_class, model_class = variant.config_class(), variant.model_class()
    require_model_fields(config_class, fields)
    require_finished(checkpoint)
    config = config_class.from_pretrained(checkpoint)
    changed = {name: value for name, value in fields.items() if getattr(config, name) != value}
    if not changed:
        return model_class.from_pretrained(checkpoint, dtype="float32")
    shown = ", ".join(f"{name} {value} instead of {getattr(config, name)}" for name, value in changed.items())
    wanted = config_class.from_dict(config.to_dict() | changed)
    # What decides which encoders there are is changed in loading, which knows how each of them starts.
    encoders = {name: value for name, value in changed.items() if name.split("_")[0] in ("target", "sigreg")}
    config = config_class.from_dict(config.to_dict() | encoders)
    (shapes, other) = (_weight_shapes(model_class, each) for each in (config, wanted))
    if unlike := [name for name in shapes | other if shapes.get(name) != other.get(name)]:
        raise ValueError(f"{checkpoint}: {shown} does not fit {len(unlike)} of its weights, such as {unlike[0]}")
    logger.warning(f"{checkpoint} is continued with {shown}")
    weights = dict(model_class.from_pretrained(checkpoint, config=config, dtype="float32").named_parameters())
    model = model_class(wanted)
    model.load_state_dict(model.state_dict() | weights)
    return model


def _weight_shapes(model_class: type, config: PreTrainedConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in model_class(config).named_parameters()}


__all__ = ["ModelArguments", "StartArguments", "build_model", "continue_model"]
