"""Runs of `JepaTrainer` over two processes, in which something goes wrong in one of them."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import torch
from tiny_training import CONFIG, QUIET
from torch.utils.data import Dataset, IterableDataset
from transformers import TrainerCallback

from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.data.images import ImageCollator
from hf_jepa.masking.build import build_mask_sampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.trainer import JepaTrainer


class Stream(IterableDataset):
    """Embedded crops, of which one process has fewer."""

    def __init__(self, length: int):
        self.rows = EmbeddedCrops(length)

    def __iter__(self):
        return (self.rows[i] for i in range(len(self.rows)))


def make(folder: Path, dataset: Dataset | None = None, callbacks=(), collator=None, **arguments: Any) -> JepaTrainer:
    torch.manual_seed(0)
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "logging_steps": 2,
        **QUIET,
    }
    model = IJepaForPreTraining(IJepaConfig(**CONFIG))
    return JepaTrainer(
        model,
        JepaTrainingArguments(**(defaults | arguments)),
        build_mask_sampler("corrected", grid_size=model.config.grid_size, target_scale=(0.15, 0.25), min_keep=3),
        train_dataset=dataset or EmbeddedCrops(64),
        data_collator=collator or ImageCollator(),
        callbacks=list(callbacks),
    )


class Spoil(ImageCollator):
    """Some batches (from 0) of one process have a pixel of NaN."""

    def __init__(self, batches: set[int], rank: int = 1):
        super().__init__()
        self.batches, self.count = batches if rank == int(os.environ["RANK"]) else set(), 0

    def __call__(self, samples):
        batch = super().__call__(samples)
        if self.count in self.batches:
            batch["pixel_values"][0] = float("nan")
        self.count += 1
        return batch


class ByHand(TrainerCallback):
    """Puts back, after a step (from 1), all that it changed."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        if state.global_step + 1 == self.step:
            self.before = {name: value.clone() for name, value in model.state_dict().items()}
            self.moments = [{k: v.clone() for k, v in each.items()} for each in optimizer.state.values()]

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        if state.global_step == self.step:
            model.load_state_dict(self.before)
            for each, moments in zip(optimizer.state.values(), self.moments, strict=True):
                for name, value in moments.items():
                    each[name].copy_(value)


def everything(trainer: JepaTrainer) -> dict[str, torch.Tensor]:
    """Weights of both encoders and of the predictor, and the state of the optimizer."""
    found = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for number, state in enumerate(trainer.optimizer.state.values()):
        found |= {f"{number}.{name}": value.clone() for name, value in state.items()}
    return found


def not_finite(folder: Path) -> None:
    """Steps with NaN in one process only: left out by both, until there are too many."""
    rank = int(os.environ["RANK"])
    found: dict[str, Any] = {}
    for name, changes in (
        ("hand", {"callbacks": [ByHand(3)]}),
        ("skipped", {"collator": Spoil({2})}),
        ("hand accumulated", {"callbacks": [ByHand(3)], "gradient_accumulation_steps": 2}),
        ("accumulated", {"collator": Spoil({4}), "gradient_accumulation_steps": 2}),  # the first batch of step 3
    ):
        trainer = make(folder / name, **changes)
        trainer.train()
        torch.save(everything(trainer), folder / f"{name}-{rank}.pt")
        log = [entry for entry in trainer.state.log_history if "learning_rate" in entry]
        found[name] = {"steps": trainer.nonfinite_steps, "log": log}
    trainer = make(folder / "stopped", collator=Spoil({1, 3, 4, 5}), max_nonfinite_steps=3)
    try:
        trainer.train()
    except FloatingPointError as error:
        found["stopped"] = {"steps": trainer.nonfinite_steps, "error": str(error)}
    (folder / f"found-{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()


# --- processes that part ------------------------------------------------------------------------------------------


def ends_early(folder: Path) -> None:
    make(
        folder,
        Stream([400, 13][int(os.environ["RANK"])]),
        max_steps=40,
        stall_timeout=WAIT,
        dataloader_drop_last=False,
    ).train()


class InStepFour(TrainerCallback):
    """Something that one process does after the first of two batches of step 4."""

    def __init__(self, what, rank: int = 1):
        self.what, self.rank = what, rank

    def on_substep_end(self, args, state, control, **kwargs):
        if args.process_index == self.rank and state.global_step == 3:
            self.what()


def part(folder: Path, what, rank: int = 1) -> None:
    make(folder, callbacks=[InStepFour(what, rank)], gradient_accumulation_steps=2, stall_timeout=WAIT).train()


def raises(folder: Path) -> None:
    def fail():
        raise ValueError("no such image")

    try:
        part(folder, fail)
    except ValueError:
        threading.Event().wait()  # a process that does not get away, as in a destructor: its connections stay open


def out_of_memory(folder: Path) -> None:
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    part(folder, fail, rank=0)  # which also keeps the store


def stalls(folder: Path) -> None:
    part(folder, never_returns)


def never_returns() -> None:
    threading.Event().wait()


WAIT = 4.0  # seconds
