"""LLM-JEPA configuration: that of any causal language model, and what the objective adds to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_jepa.core.configuration import require_model_fields
from hf_jepa.core.validation import require_at_least, require_choices, require_positive, require_rates
from hf_jepa.losses.pair_distance import DISTANCES


LAYOUTS = ("packed", "three_pass", "additive_mask", "fused")
CHOICES = {
    "layout": LAYOUTS,
    "distance": DISTANCES,
    "predictor_position": ("append", "prepend"),
    "stop_gradient": (None, "text", "code"),
}
# In the config file of the language model, which else is as transformers writes it.
SETTINGS_KEY = "llm_jepa"


@strict
class LlmJepaConfig(PreTrainedConfig):
    """Configuration of an LLM-JEPA: a language model's, and the objective (2509.14252).

    `save_pretrained` writes the config of the language model with the fields below under "llm_jepa", so that stock
    transformers reads the folder as that language model; `from_pretrained` reads such a file, and that of any language
    model, for which the fields have their defaults.

    Args:
        text_config: a config, or the fields of one with its `model_type`, of any model of `AutoModelForCausalLM`.
        layout: how the sequences of a batch are kept apart, see `hf_jepa.data.text_layouts.lay_out`: "packed",
            "three_pass" and "additive_mask" give the same numbers, "fused" is cheaper and gives others.
        distance: between the embeddings of the views: "cosine", "l2", "mse" or "infonce", see `pair_distance`.
        jepa_weight: of the distance in the loss (lambda).
        lm_weight: of the language-model loss (gamma).
        num_predictor_tokens: predictor tokens in the Text view (k).
        predictor_position: they stand at the end ("append") or the start ("prepend") of Text.
        reverse: predict Text from Code instead.
        stop_gradient: the view whose embedding gets no gradient, "text" or "code"; both get it when unset, as in the
            paper.
        jepa_dropout: share of the batches that only the language-model loss is computed of, in [0, 1).
        infonce_temperature, infonce_symmetric, infonce_gather: of "infonce"; the negatives are those of the process,
            as in the official code, or with `infonce_gather` of all.

    Example:
        >>> from hf_jepa import LlmJepaConfig
        >>> config = LlmJepaConfig(text_config={"model_type": "llama", "hidden_size": 64}, distance="infonce")
        >>> config.text_config.hidden_size, config.layout
        (64, 'packed')
    """

    model_type = "llm_jepa"
    sub_configs_defaults: ClassVar[dict] = {"text_config": SubConfigSpec(AutoConfig, model_type="llama")}

    text_config: dict | PreTrainedConfig | None = None
    layout: str = "packed"
    distance: str = "cosine"
    jepa_weight: float | int = 1.0
    lm_weight: float | int = 1.0
    num_predictor_tokens: int = 1
    predictor_position: str = "append"
    reverse: bool = False
    stop_gradient: str | None = None
    jepa_dropout: float | int = 0.0
    infonce_temperature: float | int = 0.07
    infonce_symmetric: bool = False
    infonce_gather: bool = False

    def __post_init__(self, **kwargs):
        # Of the file of the language model; here they are those of `text_config`.
        for name in ("architectures", "transformers_version", "dtype", "torch_dtype"):
            kwargs.pop(name, None)
        require_model_fields(type(self), [name for name in kwargs if name not in _GENERAL])
        # What is not said of the attention here is as the language model has it, not unset.
        text = self.text_config
        attention = text.get("attn_implementation") if isinstance(text, dict) else text and text._attn_implementation
        kwargs["attn_implementation"] = kwargs.get("attn_implementation") or attention
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in transformers, also of the file of a language model."""
        known = {name: kwargs.pop(name) for name in list(kwargs) if name in objective_fields(cls)}
        return super().from_dict(_own_form(config_dict) | known, **kwargs)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers, also of the file of a language model."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return _own_form(config_dict), kwargs

    def objective(self) -> dict[str, Any]:
        """The fields of the objective, without those of the language model."""
        return {name: getattr(self, name) for name in objective_fields(type(self))}

    @contextmanager
    def told_to_language_model(self) -> Iterator[PreTrainedConfig]:
        """`text_config` while it is saved: it says the fields of the objective, too."""
        setattr(self.text_config, SETTINGS_KEY, self.objective())
        try:
            yield self.text_config
        finally:
            delattr(self.text_config, SETTINGS_KEY)

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Write the config file of the language model, see the class."""
        self.validate()
        with self.told_to_language_model() as config:
            config.save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        return self.text_config.get_text_config(decoder=decoder, encoder=encoder)

    def validate_llm_jepa(self):
        require_choices(self, **CHOICES)
        require_at_least(self, 0, ("jepa_weight", "lm_weight", "num_predictor_tokens"))
        if not (self.jepa_weight or self.lm_weight):
            raise ValueError("jepa_weight and lm_weight are both 0: nothing would be learnt")
        require_rates(self, "jepa_dropout")
        require_positive(self, "infonce_temperature")
        if self.layout == "fused" and self.predictor_position == "prepend":
            raise ValueError("layout='fused' appends the predictor tokens to Text: use predictor_position='append'")


# What every config of transformers takes, as a field or by the way.
_GENERAL = {field.name for field in fields(PreTrainedConfig)} | {
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "output_attentions",
}


def _own_form(config_dict: dict[str, Any]) -> dict[str, Any]:
    """The fields of this class, of a file that is a language model's."""
    if config_dict.get("model_type") == LlmJepaConfig.model_type:
        return config_dict
    if "model_type" not in config_dict:
        raise ValueError(
            "the config has no model_type: it is not that of a language model of transformers. A folder of LoRA "
            "adapters has none: merge them into their language model first, as its README.md shows"
        )
    text = {name: value for name, value in config_dict.items() if name != SETTINGS_KEY}
    own = {**config_dict.get(SETTINGS_KEY, {}), "text_config": text, "model_type": LlmJepaConfig.model_type}
    # Where code lies beside the weights, it is of these classes, or of the language model.
    if text.get("auto_map", {}).get("AutoConfig", "").endswith(f".{LlmJepaConfig.__name__}"):
        own["auto_map"] = text.pop("auto_map")
    return own


def objective_fields(config_class: type[PreTrainedConfig] = LlmJepaConfig) -> list[str]:
    """Names of the fields that say what the objective is.

    Example:
        >>> objective_fields()[:2]
        ['layout', 'distance']
    """
    return [f.name for f in fields(config_class) if f.name not in _GENERAL and f.name != "text_config"]


__all__ = ["LAYOUTS", "SETTINGS_KEY", "LlmJepaConfig", "objective_fields"]
