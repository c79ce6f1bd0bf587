"""The language model of a VL-JEPA's predictor: the last layers of another one, with attention in both directions."""

import re

import torch
from transformers import AutoModel, PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from hf_jepa.core.configuration import without_path
from hf_jepa.models.vl_jepa.configuration_vl_jepa import last_layers


def new_language_model(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The language model of a predictor, with random weights.

    Args:
        config: of that model.
        dtype: of its weights, the default type of torch unless given; not that of the config, so that all parts of a
            model have one type.

    Raises:
        ValueError: a family that is not built like Llama: token embeddings, layers and a final norm side by side.

    Example:
        >>> from transformers import LlamaConfig
        >>> model = new_language_model(LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=16,
        ...                                        num_hidden_layers=1, num_attention_heads=2))
        >>> type(model).__name__
        'LlamaModel'
    """
    model = AutoModel.from_config(config, dtype=dtype or torch.get_default_dtype())
    require_llama_like(model)
    return model


def require_llama_like(model: PreTrainedModel) -> None:
    """Refuse models whose layers cannot be taken by their numbers.

    Raises:
        ValueError: naming what is not there.
    """
    lacking = [name for name in ("embed_tokens", "layers", "norm") if not hasattr(model, name)]
    if lacking:
        raise ValueError(
            f"a {type(model).__name__} cannot be a predictor: it has no {', '.join(lacking)}. Choose a language model "
            "of text alone that is built like Llama, such as Llama, Qwen, Mistral or Gemma"
        )


def predictor_of(source: PreTrainedModel, num_layers: int, causal: bool = False) -> PreTrainedModel:
    """The last layers of a language model, with its token embeddings and its final norm.

    Layer i of the source becomes layer `i - (L - num_layers)` of L layers. Positions stay those of the source:
    its rotary scaling lies in the config.

    Args:
        source: a language model, with a head or without; its weights are copied.
        num_layers: that are kept.
        causal: whether tokens see only those before them.

    Raises:
        ValueError: fewer layers in the source, or a family that is not built like Llama.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> source = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=16,
        ...                                       num_hidden_layers=4, num_attention_heads=2))
        >>> kept = predictor_of(source, 2)
        >>> torch.equal(kept.layers[0].mlp.up_proj.weight, source.model.layers[2].mlp.up_proj.weight)
        True
    """
    source = source.base_model
    require_llama_like(source)
    first = len(source.layers) - num_layers
    # In its type from the start: converted later, the rotary frequencies would be rounded, too.
    kept = new_language_model(last_layers(without_path(source.config), num_layers, causal), source.dtype)
    state = {}
    for name, value in source.state_dict().items():
        if found := re.fullmatch(r"layers\.(\d+)(\..+)", name):
            if int(found[1]) < first:
                continue
            name = f"layers.{int(found[1]) - first}{found[2]}"
        state[name] = value
    kept.load_state_dict(state)
    return kept.to(source.device)


def require_both_ways(model: PreTrainedModel) -> None:
    """Try whether the first token sees the last: transformers honours `is_causal=False` not in all families.

    Where the weights are not there yet (on the meta device) nothing is tried.

    Raises:
        ValueError: it does not, with padding or without, for which there are masks and kernels of their own.
    """
    if any(p.device.type == "meta" or not p.numel() for p in model.parameters()):
        return
    training = model.training
    seen = [_first_sees_last(model.eval(), mask) for mask in (None, torch.tensor([[1, 1, 1, 0]], device=model.device))]
    model.train(training)
    if not all(seen):
        raise ValueError(
            f"in a {type(model).__name__} the first token does not see the last, although its config says "
            "is_causal=False: vision tokens could not see the query behind them. Choose another family, or causal=True"
        )


def _first_sees_last(model: PreTrainedModel, mask: torch.Tensor | None) -> bool:
    """Whether the third token has a part in the state of the first; told by a gradient, which no rounding hides."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():
        embedded = torch.randn(1, 4, model.config.hidden_size, generator=generator)
        embedded = embedded.to(model.device, model.dtype).requires_grad_()
        first = model(inputs_embeds=embedded, attention_mask=mask, use_cache=False).last_hidden_state[0, 0]
        weights = torch.randn(len(first), generator=generator).to(first)
        (gradient,) = torch.autograd.grad((first * weights).sum(), embedded)
    return bool(gradient[0, 2].any())


__all__ = ["new_language_model", "predictor_of", "require_both_ways", "require_llama_like"]
