"""Runs on shards over two processes; what each saw and read, for a test to compare."""

import json
import os
from pathlib import Path

import torch
from shard_files import IMPATIENT, log_reads, shard_trainer

from hf_jepa.data.shard_names import find_shards
from hf_jepa.data.shards import ShardOptions


BATCH = 4  # of a process
STEPS = 8  # of an epoch
SAVED = STEPS + 3
WORKERS = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}


def train_on_shards(pattern: str, checkpoint_of_one: str, folder: Path) -> None:
    rank = os.environ["RANK"]
    log = folder / f"reads-{rank}"
    log_reads(log)
    both = {"per_device_train_batch_size": BATCH, "max_steps": 2 * STEPS}
    saving = {"save_strategy": "steps", "save_steps": SAVED}
    runs = {  # name -> arguments, checkpoint to resume from
        "whole": (WORKERS | saving, None),
        "resumed": (WORKERS, str(folder / f"whole/checkpoint-{SAVED}")),
        "of one": ({}, checkpoint_of_one),
        "broken": ({"max_steps": STEPS}, None),
    }
    for name, (arguments, checkpoint) in runs.items():
        log.unlink(missing_ok=True)
        trainer = shard_trainer(folder / name, find_shards(pattern), ShardOptions(IMPATIENT), **(both | arguments))
        if name == "broken":
            trainer.accelerator.wait_for_everyone()
            Path(pattern.replace("{00..07}", "03")).unlink(missing_ok=True)
            trainer.accelerator.wait_for_everyone()
        trainer.train(resume_from_checkpoint=checkpoint)
        reads = [line.split() for line in log.read_text().splitlines()]
        found = {
            "seen": trainer.seen,
            "reads": reads,
            "skipped": list(trainer.skipped),
            "step": trainer.state.global_step,
        }
        (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
        torch.save(trainer.model.state_dict(), folder / f"{name}-{rank}.pt")
        trainer.accelerator.wait_for_everyone()
