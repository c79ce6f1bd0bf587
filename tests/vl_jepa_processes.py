"""VL-JEPA over two processes; what they found, for a test to compare with a single one."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_vl_pairs import collate, draw_pairs, make_model, make_trainer
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import SequentialSampler
from trained_weights import keep_run, weights

from hf_jepa.training.vision_language import VLJepaTrainer


SHARES = (5, 7)  # rows of each process
LOSSES: dict[str, dict[str, Any]] = {
    "infonce": {},
    "duplicates": {"mask_duplicates": True},
    # Weighted so that its gradients are of the size of the others, which are compared absolutely.
    "vicreg": {"loss_type": "cosine", "regularization_type": "vicreg", "regularization_weight": 0.1},
}


def batch() -> dict[str, torch.Tensor]:
    """12 pairs, among them equal texts."""
    inputs = collate(draw_pairs(sum(SHARES), texts=9))
    return {name: value for name, value in inputs.items() if name not in ("skipped", "sample_index")}


def gradients(name: str, inputs: dict[str, torch.Tensor], share: float = 1.0, ddp: bool = False) -> dict[str, Any]:
    """The loss of a batch, times a share, and its gradients."""
    model = make_model(**LOSSES[name])
    wrapped = DistributedDataParallel(model) if ddp else model
    loss = wrapped(**inputs, step=0).loss * share
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def losses_of_two(folder: Path) -> None:
    """DDP takes the mean of the processes, so each counts by its share of the rows, as `StepWeightsMixin` does it."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    inputs = {name: value.split(SHARES)[rank] for name, value in batch().items()}
    # The regularised loss is that of the whole batch in every process.
    found = {name: gradients(name, inputs, 2 * SHARES[rank] / sum(SHARES), ddp=True) for name in LOSSES}
    torch.save(found, folder / f"losses-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


# name -> arguments of `make_trainer` for two processes, and what a single one has instead
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"per_device_train_batch_size": 4}, {"per_device_train_batch_size": 8}),
    "cached": (
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "cached_infonce": True},
        {"per_device_train_batch_size": 8},
    ),
    # Batches of different sizes, some of them empty.
    "broken": (
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "cached_infonce": True},
        {"per_device_train_batch_size": 8},
    ),
}
BROKEN = (1, 2, 3, 9, 10, 11, 17, 18)


def make(name: str, folder: Path, single: bool = False) -> VLJepaTrainer:
    """The trainer of a run."""
    both, alone = RUNS[name]
    options = {"cached_infonce": False, "gradient_accumulation_steps": 1} | alone if single else both
    return make_trainer(
        folder / name, draw_pairs(24), {"gather_negatives": True}, eval_dataset=draw_pairs(10, 1), **options
    )


def train_two(folder: Path) -> None:
    for name in RUNS:
        keep_run(make(name, folder), folder, name, summary=True)


def make_blank(folder: Path, batch_size: int) -> VLJepaTrainer:
    """The second half of the first eight pairs cannot be read."""
    pairs: list = draw_pairs(24)
    pairs[4:8] = ["a.mp4: damaged"] * 4
    trainer = make_trainer(folder / "blank", pairs, max_steps=2, per_device_train_batch_size=batch_size)
    trainer._get_train_sampler = lambda *args: SequentialSampler(trainer.train_dataset)
    return trainer


def train_blank(folder: Path) -> None:
    """The second process can read nothing in the first step."""
    trainer = make_blank(folder, 4)
    trainer.train()
    torch.save(weights(trainer.model), folder / f"blank-{trainer.args.process_index}.pt")
    trainer.accelerator.wait_for_everyone()
