"""Floating point operations of training a Llama on text, counted on real tokens."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM


def training_flops(model: LlmJepaForCausalLM, batch: Mapping[str, torch.Tensor]) -> int:
    """Operations of a forward and backward pass on a batch, without padding.

    For every token two per weight of a linear layer; for every token and one that it sees (itself too) four per layer
    and channel, for the score and for the sum; for every learnt token two per weight of the head; the backward pass
    twice as much as the forward pass. Norms, rotations, losses and the optimizer are left out. Padding does not count,
    because how much of it there is depends on the layout and not on the objective.

    Args:
        model: of Llama's kind, with as many heads for keys as for queries.
        batch: of `LlmJepaDataCollator` in the layout "packed", or of LM rows alone; its positions start again in each
            sequence, and the padding token stands for nothing else.

    Example:
        >>> from hf_jepa import LlmJepaConfig, LlmJepaDataCollator, LlmJepaForCausalLM, TextPair
        >>> llama = {"model_type": "llama", "vocab_size": 10, "hidden_size": 4, "intermediate_size": 8,
        ...     "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
        >>> model = LlmJepaForCausalLM(LlmJepaConfig(text_config=llama))
        >>> pair = TextPair([1, 5, 6], [-100, -100, 6], [1, 5, 9], 2, [1, 6], 1, 1, (9,))
        >>> rows = LlmJepaDataCollator(pad_token_id=0, views=False)([pair])
        >>> training_flops(model, rows) == 3 * (2 * 160 * 3 + 4 * 4 * (1 + 2 + 3) + 2 * 40 * 1)
        True
    """
    language_model, config = model.causal_lm, model.causal_lm.config
    weights = sum(part.weight.numel() for part in language_model.base_model.modules() if isinstance(part, nn.Linear))
    real = batch["input_ids"] != config.pad_token_id
    seen = int((batch["position_ids"] + 1)[real].sum())
    attention = 4 * config.num_hidden_layers * config.hidden_size * seen
    head = 2 * language_model.get_output_embeddings().weight.numel() * len(batch["label_index"])
    return 3 * (2 * weights * int(real.sum()) + attention + head)


@contextlib.contextmanager
def counted_flops(model: LlmJepaForCausalLM) -> Iterator[list[int]]:
    """The operations of each batch that the model is trained on meanwhile."""
    found: list[int] = []

    def count(module: nn.Module, args: tuple, inputs: dict[str, Any]) -> None:
        if module.training:
            found.append(training_flops(model, inputs))

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


__all__ = ["counted_flops", "training_flops"]
