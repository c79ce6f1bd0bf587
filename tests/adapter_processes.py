"""Runs of `JepaTrainer` with LoRA adapters under every engine, over two processes. See also `engine_processes`."""

import os
import time
from pathlib import Path
from typing import Any

import torch
from engine_processes import ARGUMENTS, BATCH, engine, parts_of, weights
from torch import nn

from hf_jepa.registry import VARIANTS
from hf_jepa.training.adapters import adapt_context_encoder
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.trainer import JepaTrainer


# name -> variant, configuration of the engine, training arguments
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ddp": ("ijepa", "ddp", {}),
    "ddp-text": ("data2vec_text", "ddp", {"gradient_accumulation_steps": 2}),
    "ddp-bf16": ("ijepa", "ddp", {"bf16": True}),
    "zero2": ("ijepa", "zero2", {}),
    "zero3": ("ijepa", "zero3", {}),  # small parameters are kept whole beside their shards
    "zero3-partitioned": ("ijepa", "zero3_partitioned", {}),
    "fsdp2": ("ijepa", "fsdp2", {}),
}
RANK = 3  # which two processes cannot share evenly


def save_starts(folder: Path) -> None:
    """The checkpoints that the runs continue."""
    for name in {variant for variant, *_ in RUNS.values()}:
        torch.manual_seed(0)
        variant = VARIANTS[name]
        model = variant.model_class()(variant.config_class()(**parts_of(name)[0]))
        model.save_pretrained(folder / f"start-{name}")


def make(name: str, folder: Path, processes: int = 1) -> JepaTrainer:
    """The trainer of a run, in as many processes, or in a single one with the same batches."""
    variant, config, arguments = RUNS[name]
    sizes = {"per_device_train_batch_size": BATCH // processes, "use_cpu": processes == 1 or config == "ddp"}
    arguments = ARGUMENTS | sizes | arguments
    output = folder / f"{name}-{processes}"
    arguments = JepaTrainingArguments(str(output), **arguments)
    model = VARIANTS[variant].model_class().from_pretrained(folder / f"start-{variant}", dtype="float32")
    torch.manual_seed(0)
    adapt_context_encoder(model, RANK)
    for key, matrix in model.named_parameters():
        if ".lora_B." in key:  # from the start, so that a few steps show whether the target follows
            nn.init.normal_(matrix, std=0.2)
    return JepaTrainer(model, arguments, **parts_of(variant)[1])


def train(name: str, folder: Path, processes: int = 1) -> dict[str, Any]:
    """What a run ends with: losses, weights with adapters, and merged ones, which it also saves."""
    trainer = make(name, folder, processes)
    trainer.train()
    found = {
        "log": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "weights": weights(trainer),
    }
    trainer.merge_adapters()
    found["merged"] = weights(trainer)
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    return found


def train_adapters(folder: Path) -> None:
    """All runs, from the checkpoints of `save_starts`."""
    rank = os.environ["RANK"]
    for name in RUNS:
        start = time.monotonic()
        with engine(RUNS[name][1], folder):
            torch.save(train(name, folder, processes=2), folder / f"{name}-{rank}.pt")
        if rank == "0":
            print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)
