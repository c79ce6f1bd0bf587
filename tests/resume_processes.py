"""Runs of `JepaTrainer` in one or two processes that note what they compute, and that faults can strike.

`make_runs` makes them, also for a launcher: `tests/resume_processes.py FOLDER JOBS`, with JOBS in JSON. A job is a
dictionary:
    run: name of the output folder below FOLDER.
    note: name of the notes, `FOLDER/NOTE-RANK.jsonl`.
    engine: "plain" (one process or DDP) or the stage of ZeRO.
    resume: what `train` is told.
    options: more training arguments.
    fault: {"rank", "kind", "step", ...}, see `Faults`.
"""

import errno
import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from cpu_processes import without_shared_memory
from tiny_training import CONFIG
from transformers import TrainerCallback

from hf_jepa.core.ema import local_shard
from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.data.images import ImageCollator
from hf_jepa.masking.build import build_mask_sampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.checkpoint_folders import STAGING
from hf_jepa.training.trainer import JepaTrainer


STEPS, EVERY, GLOBAL_BATCH = 12, 4, 8  # 8 steps an epoch: saves in the middle, at its end, and at the end of the run

EVENTS = ("open", "os.mkdir", "os.rename")  # of Python's audit
# What `accelerate launch` sets from a config file.
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true"}


def make(folder: Path, job: dict[str, Any], world_size: int) -> JepaTrainer:
    """The trainer of a job; dropout makes it depend on the random state of each process."""
    options = job.get("options", {})
    accumulation = options.get("gradient_accumulation_steps", 1)
    defaults = {
        "output_dir": str(folder / job["run"]),
        "per_device_train_batch_size": GLOBAL_BATCH // world_size // accumulation,
        "max_steps": STEPS,
        "warmup_steps": 3,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": EVERY,
        "ddp_backend": "gloo" if world_size > 1 else None,
        "report_to": "none",
        "disable_tqdm": True,
    }
    if job["engine"] == "plain":
        defaults["use_cpu"] = True
    else:
        os.environ |= ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": str(job["engine"])}
    training = JepaTrainingArguments(**(defaults | options))
    torch.manual_seed(0)
    model = IJepaForPreTraining(IJepaConfig(**CONFIG, hidden_dropout_prob=0.1))
    sampler = build_mask_sampler("corrected", grid_size=model.config.grid_size, target_scale=(0.15, 0.25), min_keep=3)
    return JepaTrainer(
        model, training, sampler, train_dataset=EmbeddedCrops(64), data_collator=ImageCollator(), callbacks=[]
    )


class Notes(TrainerCallback):
    """Samples, masks, loss and weights of every step, as lines of a file."""

    def __init__(self, trainer: JepaTrainer, path: Path):
        self.trainer, self.file = trainer, path.open("w")
        sampler = trainer.mask_sampler

        def noted(sample_index, step, epoch):
            masks = sampler(sample_index, step=step, epoch=epoch)
            found = _digest([*masks.context_mask, *masks.target_mask])
            self.write(step + 1, "masks", [sample_index.tolist(), found])
            return masks

        trainer.mask_sampler = noted

    def write(self, step: int, what: str, value: Any) -> None:
        self.file.write(json.dumps([step, what, value]) + "\n")
        self.file.flush()

    def on_step_end(self, args, state, control, **kwargs):
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        self.write(state.global_step, "weights", _digest(local_shard(p) for p in model.parameters()))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.write(state.global_step, "loss", logs["loss"])


def _digest(tensors) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


class Faults(TrainerCallback):
    """What strikes a run.

    Kinds: "step", all processes are killed as a step begins. "write", they are killed at some moment of writing the
    checkpoint of a step: after a share of the moments that the run `like` had; what PyTorch or safetensors write then
    is half there. "full", from such a moment on the disk is full. "leave", this process gets SIGTERM; "launcher", the
    launcher does.
    """

    def __init__(self, trainer: JepaTrainer, pids: list[int], fault: dict[str, Any] | None, notes: Notes):
        self.trainer, self.pids, self.notes = trainer, pids, notes
        self.fault = fault if fault and fault["rank"] == trainer.args.process_index else {}
        self.step, self.moments, self.moment_of_fault = None, 0, 0
        if "share" in self.fault:
            lines = Path(notes.file.name).with_name(f"{fault['like']}-{fault['rank']}.jsonl").read_text().splitlines()
            (moments,) = (value for step, kind, value in map(json.loads, lines) if (step, kind) == (EVERY, "moments"))
            self.moment_of_fault = 1 + int(fault["share"] * moments)
        save_checkpoint = trainer._save_checkpoint

        def watched(*args: Any) -> None:
            self.step, self.moments = trainer.state.global_step, 0
            save_checkpoint(*args)
            notes.write(self.step, "moments", self.moments)
            self.step = None

        trainer._save_checkpoint = watched
        sys.addaudithook(self._event)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 != self.fault.get("step"):
            return
        if self.fault["kind"] == "step":
            self.kill()
        if self.fault["kind"] in ("leave", "launcher"):
            os.kill(os.getpid() if self.fault["kind"] == "leave" else os.getppid(), signal.SIGTERM)

    def kill(self) -> None:
        """All of this run, as when the machine fails: nobody is told, and nobody cleans up."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)

    def _event(self, name: str, args: tuple) -> None:
        if self.step is not None and name in EVENTS and STAGING in str(args[0]):
            writes = name == "os.mkdir" or (name == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if writes or name == "os.rename":
                self.moment(None, needs_room=bool(writes))

    def moment(self, half_written, needs_room: bool = True) -> None:
        """Another one of a save; perhaps the last of this process."""
        if self.step is None:
            return
        self.moments += 1
        if self.step != self.fault.get("step") or self.moments < self.moment_of_fault:
            return
        if half_written is not None:
            half_written()
        if self.fault["kind"] == "write":
            self.kill()
        if needs_room:
            raise OSError(errno.ENOSPC, "No space left on device")


def write_in_halves(faults: list[Faults]) -> None:
    """The two functions that write tensors become moments as well, in which half of the file is written."""
    import transformers.modeling_utils as modeling

    def wrapped(original, place: int):
        def save(*args, **kwargs):
            def half() -> None:
                original(*args, **kwargs)
                os.truncate(args[place], os.path.getsize(args[place]) // 2)

            if isinstance(args[place], (str, os.PathLike)) and STAGING in str(args[place]):
                faults[-1].moment(half)
            return original(*args, **kwargs)

        return save

    torch.save = wrapped(torch.save, 1)
    modeling.safe_save_file = wrapped(modeling.safe_save_file, 1)


def reset() -> None:
    """Let the next trainer choose its engine; the group of processes stays."""
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    AcceleratorState._reset_state(reset_partial_state=True)
    unset_hf_deepspeed_config()
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_DEEPSPEED_ZERO_STAGE", *ZERO):
        os.environ.pop(name, None)


def make_runs(folder: Path, jobs: list[dict[str, Any]]) -> None:
    rank, world_size = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if any(job["engine"] != "plain" for job in jobs):
        without_shared_memory()
    faults: list[Faults] = []
    write_in_halves(faults)
    for job in jobs:
        reset()
        trainer = make(folder, job, world_size)
        pids = torch.zeros(world_size, dtype=torch.int64)
        pids[rank] = os.getpid()
        if world_size > 1:
            torch.distributed.all_reduce(pids)
        others = [pid for pid in pids.tolist() if pid != os.getpid()]
        notes = Notes(trainer, folder / f"{job['note']}-{rank}.jsonl")
        faults.append(Faults(trainer, [*others, os.getpid()], job.get("fault"), notes))
        for callback in (notes, faults[-1]):
            trainer.add_callback(callback)
        resume = job.get("resume")
        try:
            trainer.train(
                resume_from_checkpoint=str(folder / resume) if resume not in (None, "auto", True) else resume
            )
        except OSError as error:
            notes.write(0, "error", str(error))
        trainer.accelerator.wait_for_everyone()
        trainer.model_wrapped = trainer.model
        trainer.accelerator.free_memory()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    make_runs(Path(sys.argv[1]), json.loads(sys.argv[2]))
