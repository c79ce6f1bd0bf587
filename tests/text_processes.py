"""Runs of `LlmJepaTrainer` over two processes; what they found, for a test to compare."""

import json
from pathlib import Path
from typing import Any

import torch
from tiny_pairs import LLAMA, PREDICTOR, draw_pairs, make_text_trainer
from torch.utils.data import SequentialSampler
from trained_weights import weights

from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM
from hf_jepa.training.llm_jepa import LlmJepaTrainer, add_adapters


# name -> arguments of `make_text_trainer` for two processes, and what a single one has instead
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # 20 pairs: the last step of an epoch has one batch of each process, not two.
    "windows": (
        {"objective": {"distance": "l2", "jepa_weight": 0.5}, "gradient_accumulation_steps": 2, "max_steps": 5},
        {"gradient_accumulation_steps": 4},
    ),
    "negatives": (
        {
            "objective": {"distance": "infonce", "infonce_gather": True, "infonce_symmetric": True},
            "per_device_train_batch_size": 4,
            "max_steps": 2,
        },
        {"per_device_train_batch_size": 8},
    ),
    "adapters": ({"max_steps": 2}, {"per_device_train_batch_size": 4}),
    "dropout": ({"objective": {"jepa_dropout": 0.5}, "max_steps": 4, "gradient_accumulation_steps": 2}, {}),
    "own_means": ({"average_tokens_across_devices": False, "max_steps": 1}, {}),
}


def make(name: str, folder: Path, single: bool = False) -> LlmJepaTrainer:
    """The trainer of a run."""
    both, alone = RUNS[name]
    model = None
    if name == "adapters":
        torch.manual_seed(0)
        model = LlmJepaForCausalLM(LlmJepaConfig(text_config=LLAMA))
        add_adapters(model, [PREDICTOR], rank=4, dropout=0.0)
    options = both | (alone if single else {})
    trainer = make_text_trainer(folder / name, draw_pairs(20), model=model, eval_pairs=draw_pairs(8, 1), **options)
    if name == "own_means":  # so that a test knows the batch of each process
        trainer._get_train_sampler = lambda *args: SequentialSampler(trainer.train_dataset)
    return trainer


def train_texts(folder: Path) -> None:
    for name in RUNS:
        trainer = make(name, folder)
        dropped: list[bool] = []
        trainer.model.register_forward_pre_hook(
            lambda module, args, kwargs, into=dropped: into.append("text_index" not in kwargs), with_kwargs=True
        )
        trainer.train()
        calls = list(dropped)
        measured = trainer.evaluate()
        rank = trainer.args.process_index
        found = {"log": trainer.state.log_history, "measured": measured, "dropped": calls}
        (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
        torch.save(weights(trainer.model), folder / f"{name}-{rank}.pt")
        trainer.accelerator.wait_for_everyone()
