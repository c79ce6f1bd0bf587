"""Pairs of clips and texts, and a model for them, that the tests of VL-JEPA's training share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_training import QUIET

from hf_jepa.models.vl_jepa.configuration_vl_jepa import VLJepaConfig
from hf_jepa.models.vl_jepa.modeling_vl_jepa import VLJepaForPreTraining
from hf_jepa.training.vision_language import VLJepaTrainer, VLJepaTrainingArguments


FRAMES, SIZE, TOKENS = 4, 32, 40
CONFIG = {
    "vision_config": {
        "model_type": "vjepa2",
        "crop_size": SIZE,
        "patch_size": 16,
        "frames_per_clip": FRAMES,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "mlp_ratio": 2.0,
        "initializer_range": 0.2,
    },
    "predictor_config": {
        "model_type": "llama",
        "vocab_size": TOKENS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
    },
    "text_config": {
        "model_type": "bert",
        "vocab_size": TOKENS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.2,
    },
    "num_predictor_layers": 2,
    "projection_dim": 16,
    "max_query_length": 12,
    "max_target_length": 12,
    "initializer_range": 0.2,
}


def make_model(**fields: Any) -> VLJepaForPreTraining:
    """A model with weights that are always the same; a field of a part's config is merged into it."""
    torch.manual_seed(0)
    merged = {
        name: CONFIG[name] | value if isinstance(value, dict) and name in CONFIG else value
        for name, value in fields.items()
    }
    return VLJepaForPreTraining(VLJepaConfig(**(CONFIG | merged)))


def draw_pairs(count: int, seed: int = 0, queries: bool = True, texts: int | None = None) -> list[dict[str, Any]]:
    """Clips of noise with targets of 2 to 8 tokens, and queries of none to 5.

    Args:
        texts: how many different targets there are; all differ unless given.
    """
    drawn = torch.Generator().manual_seed(seed)

    def tokens(shortest: int, longest: int) -> torch.Tensor:
        length = int(torch.randint(shortest, longest + 1, (), generator=drawn))
        return torch.randint(1, TOKENS, (length,), generator=drawn)

    targets = [tokens(2, 8) for _ in range(texts or count)]
    return [
        {
            "pixel_values_videos": torch.randn(FRAMES, 3, SIZE, SIZE, generator=drawn),
            "target_ids": targets[number % len(targets)],
            "target_group": number % len(targets),
            "sample_index": number,
        }
        | ({"query_ids": tokens(0, 5)} if queries else {})
        for number in range(count)
    ]


def collate(samples: Sequence[dict[str, Any] | str]) -> dict[str, Any]:
    """A batch, as `VLJepaDataCollator` makes them; a sample that is a string stands for what could not be read."""
    skipped = [sample for sample in samples if isinstance(sample, str)]
    read = [sample for sample in samples if not isinstance(sample, str)]
    batch: dict[str, Any] = {"skipped": skipped}
    for name in ("pixel_values_videos", "vision_tokens"):
        if any(name in sample for sample in read):
            batch[name] = torch.stack([sample[name] for sample in read])
    if not read:
        batch["pixel_values_videos"] = torch.empty(0, FRAMES, 3, SIZE, SIZE)
    for name in ("query", "target"):
        rows = [sample[f"{name}_ids"] for sample in read if f"{name}_ids" in sample]
        if rows or name == "target":
            longest = max([1, *map(len, rows)])
            batch[f"{name}_ids"] = torch.zeros(len(rows), longest, dtype=torch.int64)
            batch[f"{name}_mask"] = torch.zeros(len(rows), longest, dtype=torch.int64)
            for place, row in enumerate(rows):
                batch[f"{name}_ids"][place, : len(row)] = row
                batch[f"{name}_mask"][place, : len(row)] = 1
    for name in ("target_group", "sample_index"):
        batch[name] = torch.tensor([sample[name] for sample in read], dtype=torch.int64)
    return batch


def make_trainer(
    output: Path, pairs: Sequence[dict[str, Any] | str], fields: dict[str, Any] | None = None, **options: Any
) -> VLJepaTrainer:
    """A trainer of a tiny model; by gradient descent, which unlike Adam sees the scale of a gradient.

    Args:
        fields: of the config.
        options: arguments of `VLJepaTrainer` or of `VLJepaTrainingArguments`.
    """
    own = {name: options.pop(name) for name in ("model", "eval_dataset", "callbacks") if name in options}
    defaults = {
        "output_dir": str(output),
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "logging_steps": 1,
        "learning_rate": 0.1,
        "text_lr_multiplier": 0.5,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        **QUIET,
    }
    return VLJepaTrainer(
        own.pop("model", None) or make_model(**(fields or {})),
        VLJepaTrainingArguments(**(defaults | options)),
        train_dataset=pairs,
        data_collator=collate,
        **own,
    )
