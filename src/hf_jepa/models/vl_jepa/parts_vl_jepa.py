"""Where the parts of a VL-JEPA come from (checkpoints, models, configs), and how its encoders are asked."""

import inspect
from os import PathLike
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, VJEPA2Model
from transformers.modeling_utils import PreTrainedModel

from hf_jepa.core.backbones import any_size
from hf_jepa.core.loading import require_weights
from hf_jepa.core.modeling import JepaPreTrainingMixin
from hf_jepa.models.encoders import load_encoder, new_encoder
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2Encoder, VJepa2Model
from hf_jepa.models.vl_jepa.predictor_vl_jepa import masked_mean


Part = str | PathLike | PreTrainedModel | PreTrainedConfig
_POOLERS = ("pooler.", "head.")  # layers that make a vector of their own, which nothing reads here


# --- the X-Encoder --------------------------------------------------------------------------------------------------


def vision_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder in a model of images or clips, without predictor, target average or classifier.

    Args:
        model: of this package (also a pretraining model, of which the encoder that users want is taken), a native
            `VJEPA2Model`, whose weights are copied into ours, or any other encoder, which is returned as it is.

    Example:
        >>> from transformers import VJEPA2Config
        >>> native = VJEPA2Model(VJEPA2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        ...                                   pred_hidden_size=24, pred_num_attention_heads=2))
        >>> type(vision_encoder(native)).__name__
        'VJepa2Encoder'
    """
    if isinstance(model, JepaPreTrainingMixin):
        return model.feature_encoder
    model = model.base_model
    if isinstance(model, VJEPA2Model):
        encoder = VJepa2Encoder(model.config)
        encoder.load_state_dict(model.encoder.state_dict())
        return encoder.to(model.device, model.dtype)
    return model.encoder if isinstance(model, VJepa2Model) else model


def new_vision_model(config: PreTrainedConfig) -> PreTrainedModel:
    """An X-Encoder with random weights."""
    return _readable(new_encoder(config))


def load_vision_model(source: Part, loading: dict[str, Any]) -> PreTrainedModel:
    """The X-Encoder of a folder, Hub id, model or config.

    Raises:
        ValueError: the checkpoint lacks weights of the encoder.
    """
    if isinstance(source, PreTrainedConfig):
        return new_vision_model(source)
    if not isinstance(source, PreTrainedModel):
        source = load_encoder(source, wanted="an X-Encoder", **loading)
    return _readable(vision_encoder(source))


def vision_tokens_of(model: PreTrainedModel, pixel_values_videos: torch.Tensor) -> torch.Tensor:
    """All tokens that an X-Encoder says of clips, behind its final norm.

    An encoder of images sees every frame by itself; the tokens of the frames follow one another.

    Args:
        model: of `new_vision_model` or `load_vision_model`.
        pixel_values_videos: (B, T, C, H, W); an image is a clip of one frame.

    Returns:
        (B, N, D)

    Raises:
        TypeError: raw pixels.
        ValueError: another number of dimensions.
    """
    if not pixel_values_videos.is_floating_point():
        raise TypeError(
            f"pixel_values_videos is of {pixel_values_videos.dtype}, expected normalised pixels as floating-point "
            "numbers: the processor makes them of raw ones"
        )
    if pixel_values_videos.ndim != 5:
        raise ValueError(
            f"pixel_values_videos has shape {tuple(pixel_values_videos.shape)}, expected (batch, frames, channels, "
            "height, width): an image is a clip of one frame, pixel_values.unsqueeze(1)"
        )
    clips = pixel_values_videos.to(model.dtype)
    name, options = model.main_input_name, {"return_dict": True} | any_size(model)
    if name == "pixel_values_videos" or "video" in model.input_modalities:
        return model(**{name: clips}, **options).last_hidden_state
    tokens = model(**{name: clips.flatten(0, 1)}, **options).last_hidden_state
    if tokens.ndim == 4:  # of a ConvNet, (B * T, D, H, W)
        tokens = tokens.flatten(2).transpose(1, 2)
    return tokens.unflatten(0, clips.shape[:2]).flatten(1, 2)


# --- language models and the Y-Encoder ------------------------------------------------------------------------------


def load_language_model(source: Part, loading: dict[str, Any]) -> PreTrainedModel:
    """The whole language model whose last layers become the predictor.

    Raises:
        ValueError: the checkpoint lacks weights.
    """
    return _load(AutoModel, source, "language model", loading).base_model


def new_text_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A Y-Encoder with random weights."""
    return _readable(AutoModel.from_config(config, dtype=torch.get_default_dtype()))


def load_text_model(source: Part, loading: dict[str, Any]) -> PreTrainedModel:
    """The Y-Encoder of a folder, Hub id, model or config.

    Of a folder of sentence-transformers this is the transformer, without the layers behind it.

    Raises:
        ValueError: the checkpoint lacks weights of the encoder.
    """
    return _readable(_load(AutoModel, source, "text encoder", loading).base_model)


def pooled_states(states: torch.Tensor, mask: torch.Tensor, kind: str) -> torch.Tensor:
    """One vector for each text.

    Args:
        states: (B, L, D)
        mask: (B, L) bool, True at tokens, which come first.
        kind: "mean" over tokens, the first ("cls"), or the "last".

    Returns:
        (B, D)

    Example:
        >>> states, mask = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
        >>> [pooled_states(states, mask, kind).item() for kind in ("mean", "cls", "last")]
        [2.0, 1.0, 3.0]
    """
    if kind == "mean":
        return masked_mean(states, mask)
    if kind == "cls":
        return states[:, 0]
    last = (mask.sum(dim=1) - 1).clamp(min=0)
    return states[torch.arange(len(states), device=states.device), last]


def load_decoder(source: Part, loading: dict[str, Any]) -> PreTrainedModel:
    """The causal language model of a Y-Decoder.

    Raises:
        ValueError: the checkpoint lacks weights.
    """
    return _load(AutoModelForCausalLM, source, "decoder", loading)


# --- both -----------------------------------------------------------------------------------------------------------


def _load(auto_class: type, source: Part, wanted: str, loading: dict[str, Any]) -> PreTrainedModel:
    if isinstance(source, PreTrainedModel):
        return source
    if isinstance(source, PreTrainedConfig):
        return auto_class.from_config(source, dtype=torch.get_default_dtype())
    model, info = auto_class.from_pretrained(source, output_loading_info=True, **loading)
    lost = (key for key in info["missing_keys"] if not key.startswith(_POOLERS))
    remedy = "check that it is a checkpoint of such a model, and not truncated"
    require_weights(lost, source, f"the {wanted}, a {type(model).__name__}", remedy)
    return model


def _readable(model: PreTrainedModel) -> PreTrainedModel:
    """An encoder without a pooling layer, which nothing would read."""
    if "add_pooling_layer" in inspect.signature(type(model).__init__).parameters:
        model.pooler = None
    return model


__all__ = [
    "Part",
    "load_decoder",
    "load_language_model",
    "load_text_model",
    "load_vision_model",
    "new_text_model",
    "new_vision_model",
    "pooled_states",
    "vision_encoder",
    "vision_tokens_of",
]
