"""Encoders of images and clips as parts of other models: found in a checkpoint, or made from a config."""

from collections.abc import Mapping
from os import PathLike

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from hf_jepa.core.loading import require_weights
from hf_jepa.models.ijepa.modeling_ijepa import IJepaModel
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2Encoder
from hf_jepa.models.vjepa2_1.modeling_vjepa2_1 import VJepa21Encoder


# Those that `AutoModel` would give as another class, or with a predictor beside the encoder.
ENCODERS = {"ijepa": IJepaModel, "vjepa2": VJepa2Encoder, "vjepa2_1": VJepa21Encoder}


def load_encoder(source: str | PathLike, wanted: str, **kwargs) -> PreTrainedModel:
    """The encoder of a checkpoint.

    Args:
        source: folder or Hub id, of any variant of this package that has an encoder (the one that users want), or of
            an encoder that stock `AutoModel` loads.
        wanted: what it is for, for the message.
        kwargs: as for `from_pretrained`.

    Raises:
        ValueError: weights of the encoder are not in the checkpoint. transformers would draw them at random.
    """
    hub = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "trust_remote_code")
    config = AutoConfig.from_pretrained(source, **{name: kwargs[name] for name in hub if name in kwargs})
    encoder_class = ENCODERS.get(config.model_type, AutoModel)
    model, info = encoder_class.from_pretrained(source, output_loading_info=True, **kwargs)
    require_weights(info["missing_keys"], source, type(model).__name__, f"{wanted} must be trained")
    return model


def new_encoder(
    config: PreTrainedConfig, others: Mapping[str, type[PreTrainedModel]] | None = None
) -> PreTrainedModel:
    """An encoder with random weights, which a checkpoint then fills in.

    Args:
        config: of the encoder.
        others: classes by `model_type` that may not be registered.

    Example:
        >>> from transformers import VJEPA2Config
        >>> type(new_encoder(VJEPA2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))).__name__
        'VJepa2Encoder'
    """
    encoders = ENCODERS | dict(others or {})
    if config.model_type in encoders:
        return encoders[config.model_type](config)
    return AutoModel.from_config(config, dtype=torch.get_default_dtype())  # not that of the config: one for all parts


__all__ = ["ENCODERS", "load_encoder", "new_encoder"]
