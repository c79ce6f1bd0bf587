"""The config fields that say what a JEPA's loss is; every variant's config mixes them in."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from os.path import basename, isabs
from typing import Any, ClassVar, Self

from transformers import PreTrainedConfig

from hf_jepa.core.validation import require_choices
from hf_jepa.losses.prediction import LOSSES, NORMALIZATIONS


OWN_TARGETS = ("shared", "shared_stopgrad", "input_embedding")  # without an encoder that only makes targets


@dataclass(kw_only=True, repr=False)  # the repr of PreTrainedConfig shows all fields, not those of the mixin
class JepaConfigMixin:
    """What is predicted and how the prediction is judged.

    Args:
        target_source: where targets come from; `target_sources` are those that a variant offers. "ema": an encoder
            that follows the context encoder as an exponential moving average; "frozen": an encoder that is never
            updated (a given teacher); "shared": the one encoder that is trained, here, too; "shared_stopgrad": the
            same, without gradient; "input_embedding": the embedded input, without gradient.
        target_normalization: "layer_norm" (without learnt scale) or "none", see `normalize_targets`.
        loss_type: "smooth_l1", "l1", "mse" or "cosine", see `prediction_loss`.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> IJepaConfig(loss_type="l1").target_source
        'ema'
    """

    target_sources: ClassVar[tuple[str, ...]] = ("ema", "frozen")
    sizes: ClassVar[dict[str, dict[str, Any]]] = {}

    target_source: str = "ema"
    target_normalization: str = "layer_norm"
    loss_type: str = "smooth_l1"

    @classmethod
    def from_size(cls, size: str, **overrides) -> Self:
        """The config of a named size, any field of which can be overridden.

        Raises:
            ValueError: no size of that name; the error lists those of the variant.
        """
        if size not in cls.sizes:
            raise ValueError(f"size {size!r} is not one of {', '.join(cls.sizes)}")
        return cls(**(cls.sizes[size] | overrides))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in transformers, but fields that are given are there before the config is checked, not after.

        A small native data2vec, whose file does not say `top_k_layers`, can so be loaded with those that it has.
        """
        known = model_fields(cls)
        given = {name: value for name, value in kwargs.items() if name in known and not isinstance(value, dict)}
        return super().from_dict(config_dict | given, **kwargs)

    def validate_objective(self):
        require_choices(self, target_source=self.target_sources, target_normalization=NORMALIZATIONS, loss_type=LOSSES)

    @property
    def has_target_encoder(self) -> bool:
        """Whether an encoder of its own makes the targets."""
        return self.target_source not in OWN_TARGETS


def model_fields(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    """Name and type of the fields of the model, without those that every config of transformers has.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> model_fields(IJepaConfig)["num_hidden_layers"]
        <class 'int'>
    """
    general = {field.name for field in fields(PreTrainedConfig)}
    return {field.name: field.type for field in fields(config_class) if field.name not in general}


def require_model_fields(config_class: type[PreTrainedConfig], names: Iterable[object]) -> None:
    """Refuse what is no field of the model: transformers takes every name, so a misspelt one would change nothing.

    Raises:
        ValueError: naming the unknown fields, and the known one that each resembles.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> require_model_fields(IJepaConfig, ["hidden_size"])
    """
    known = model_fields(config_class)
    if unknown := [name for name in map(str, names) if name not in known]:
        meant = {name: get_close_matches(name, known, n=1, cutoff=0.8) for name in unknown}
        shown = ", ".join(name + (f" (did you mean {near[0]}?)" if near else "") for name, near in meant.items())
        raise ValueError(f"{config_class.__name__} has no field {shown}")


def without_path(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of a part's config that names no folder of this machine: config.json is for others, too.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> without_path(IJepaConfig(name_or_path="/home/me/encoder")).name_or_path
        'encoder'
    """
    config = copy.deepcopy(config)
    if config.name_or_path and isabs(config.name_or_path):
        config.name_or_path = basename(config.name_or_path)
    return config


__all__ = [
    "OWN_TARGETS",
    "JepaConfigMixin",
    "model_fields",
    "require_model_fields",
    "without_path",
]
