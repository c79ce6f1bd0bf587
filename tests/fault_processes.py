"""Runs of `JepaTrainer` over the processes that torchrun starts, in which something goes wrong in one of them.

torchrun --nproc_per_node 2 tests/fault_processes.py CASE FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_training import CONFIG
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


def make(folder: Path, dataset: Dataset | None = None, callbacks: list[TrainerCallback] = (), **arguments: Any):
    torch.manual_seed(0)
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "logging_steps": 2,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    model = IJepaForPreTraining(IJepaConfig(**CONFIG))
    return JepaTrainer(
        model,
        JepaTrainingArguments(**(defaults | arguments)),
        build_mask_sampler("corrected", grid_size=model.config.grid_size, target_scale=(0.15, 0.25), min_keep=3),
        train_dataset=dataset or EmbeddedCrops(64),
        data_collator=ImageCollator(),
        callbacks=list(callbacks),
    )


class Spoil(TrainerCallback):
    """Pixels of NaN in some calls of the model (from 0), in one process."""

    def __init__(self, calls: set[int], rank: int = 1):
        self.calls, self.rank, self.count = calls, rank, 0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if args.process_index == self.rank:
            model.register_forward_pre_hook(self._spoil, with_kwargs=True)

    def _spoil(self, model, args, kwargs):
        if model.training and self.count in self.calls:
            kwargs["pixel_values"][0, 0, 0, 0] = float("nan")  # in place: also in what is kept of the step
        self.count += 1


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


def not_finite(folder: Path, rank: int) -> None:
    """Steps with NaN in one process only: left out by both, until there are too many."""
    found: dict[str, Any] = {}
    for name, callback, options in (
        ("hand", ByHand(3), {}),
        ("skipped", Spoil({2}), {}),
        ("hand accumulated", ByHand(3), {"gradient_accumulation_steps": 2}),
        ("accumulated", Spoil({4}), {"gradient_accumulation_steps": 2}),  # the first batch of step 3
    ):
        trainer = make(folder / name, callbacks=[callback], **options)
        trainer.train()
        torch.save(everything(trainer), folder / f"{name}-{rank}.pt")
        log = [entry for entry in trainer.state.log_history if "learning_rate" in entry]
        found[name] = {"steps": trainer.nonfinite_steps, "log": log}
    trainer = make(folder / "stopped", callbacks=[Spoil({1, 3, 4, 5})], max_nonfinite_steps=3)
    try:
        trainer.train()
    except FloatingPointError as error:
        found["stopped"] = {"steps": trainer.nonfinite_steps, "error": str(error)}
    (folder / f"found-{rank}.json").write_text(json.dumps(found))


def ends_early(folder: Path, rank: int) -> None:
    make(folder / "run", Stream([400, 20][rank]), max_steps=40, stall_timeout=3).train()


class Raise(TrainerCallback):
    def __init__(self, error: Exception):
        self.error = error

    def on_substep_end(self, args, state, control, **kwargs):
        if args.process_index == 1 and state.global_step == 3:
            raise self.error


def raises(folder: Path, rank: int) -> None:
    make(folder / "run", callbacks=[Raise(ValueError("no such image"))], gradient_accumulation_steps=2).train()


def out_of_memory(folder: Path, rank: int) -> None:
    cause = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"
    callbacks = [Raise(torch.OutOfMemoryError(cause))]
    make(folder / "run", callbacks=callbacks, gradient_accumulation_steps=2).train()


class Sleep(TrainerCallback):
    def on_substep_end(self, args, state, control, **kwargs):
        if args.process_index == 1 and state.global_step == 3:
            threading.Event().wait()


def stalls(folder: Path, rank: int) -> None:
    make(folder / "run", callbacks=[Sleep()], gradient_accumulation_steps=2, stall_timeout=3).train()


CASES = {case.__name__: case for case in (not_finite, ends_early, raises, out_of_memory, stalls)}


if __name__ == "__main__":
    import os
    import threading

    import torch.distributed as dist

    CASES[sys.argv[1]](Path(sys.argv[2]), int(os.environ["RANK"]))
    dist.barrier()
    dist.destroy_process_group()
