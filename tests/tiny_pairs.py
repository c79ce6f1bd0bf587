"""Text pairs and language models that the LLM-JEPA training tests share."""

import random
from pathlib import Path
from typing import Any

import torch
from tiny_training import QUIET

from hf_jepa.data.text_layouts import LlmJepaDataCollator
from hf_jepa.data.text_pairs import TextPair
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM
from hf_jepa.training.llm_jepa import LlmJepaTrainer, LlmJepaTrainingArguments


PREDICTOR = 39  # the last of 40 tokens
LLAMA = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
}


def draw_pairs(count: int, seed: int = 0) -> list[TextPair]:
    """Pairs whose answers have 1 to 12 tokens, so that no two batches learn the same number of tokens."""
    drawn = random.Random(seed)
    pairs = []
    for _ in range(count):
        text = [1, *(drawn.randrange(3, PREDICTOR) for _ in range(drawn.randrange(2, 9)))]
        code = [drawn.randrange(3, PREDICTOR) for _ in range(drawn.randrange(1, 13))]
        row = [*text, *code, 2]
        labels = [-100] * len(text) + [*code, 2]
        pairs.append(
            TextPair(
                row, labels, [*text, PREDICTOR, 2], len(text), [1, *code, 2], len(code), len(text) - 1, (PREDICTOR,)
            )
        )
    return pairs


def make_text_trainer(
    output: Path,
    pairs: list[TextPair],
    text_config: dict[str, Any] | None = None,
    objective: dict[str, Any] | None = None,
    model: LlmJepaForCausalLM | None = None,
    eval_pairs: list[TextPair] | None = None,
    callbacks: list | None = None,
    **arguments: Any,
) -> LlmJepaTrainer:
    """A trainer of a tiny language model; by gradient descent, which unlike Adam sees the scale of a gradient."""
    objective = objective or {}
    if model is None:
        torch.manual_seed(0)
        model = LlmJepaForCausalLM(LlmJepaConfig(text_config=LLAMA | (text_config or {}), **objective))
    defaults = {
        "output_dir": str(output),
        "per_device_train_batch_size": 2,
        "max_steps": 3,
        "logging_steps": 1,
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        **QUIET,
    }
    config = model.config
    return LlmJepaTrainer(
        model,
        LlmJepaTrainingArguments(**(defaults | arguments)),
        train_dataset=pairs,
        eval_dataset=eval_pairs,
        data_collator=LlmJepaDataCollator(
            pad_token_id=0, layout=config.layout, with_lm_only=config.jepa_dropout > 0, views=config.jepa_weight > 0
        ),
        callbacks=callbacks,
    )
