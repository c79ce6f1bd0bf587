"""The config of a language model that starts afresh, with a row of embeddings for every token of its tokenizer."""

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase


# Fields that transformers takes as well, and of which its configs make others.
OLDER = {"rope_theta", "rope_scaling", "torch_dtype", "attn_implementation"}


def fresh_text_config(
    given: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, name: str, **more: Any
) -> PreTrainedConfig:
    """The config of a language model for a tokenizer.

    Args:
        given: its fields, with a model_type.
        tokenizer: that tells the special tokens and how many there are.
        name: of the field of the recipe, for errors.
        more: fields unless given.

    Raises:
        ValueError: no model_type, fewer embeddings than tokens, or a field that its config does not have.

    Example:
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> fields = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1}
        >>> fresh_text_config(fields, byte_tokenizer(), "model_config").vocab_size == len(byte_tokenizer())
        True
    """
    if "model_type" not in given:
        raise ValueError(f"{name} needs a model_type, such as 'llama'")
    tokens = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    fields = tokens | {"vocab_size": len(tokenizer)} | more | dict(given)
    if fields["vocab_size"] < len(tokenizer):
        raise ValueError(f"{name}: {fields['vocab_size']} rows of embeddings for {len(tokenizer)} tokens")
    # transformers keeps what it does not know, and a misspelt size would leave the default, of several billions.
    known = AutoConfig.for_model(fields["model_type"])
    if unknown := sorted(key for key in fields if not hasattr(known, key) and key not in OLDER):
        raise ValueError(f"{name}: {fields['model_type']} has no field {', '.join(unknown)}")
    return AutoConfig.for_model(**fields)


__all__ = ["fresh_text_config"]
