"""What a training step really held in memory, to compare an estimate with."""

import os
from contextlib import nullcontext

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves, tree_map_only

from hf_jepa.training.costs import allocated_peak
from hf_jepa.training.estimate_recipes import Job


def measured_peak(job: Job, samples: int, device: str, autocast: torch.dtype | None = None) -> int:
    """Most bytes alive in the second of two steps on random values: weights, optimizer, batch, gradients, activations.

    On a GPU it is `torch.cuda.max_memory_allocated`, on a CPU the sum of the profiler's record of allocations and of
    what was there before.

    Args:
        job: what is trained, in this one process.
        samples: of the batch.
        device: "cpu" or "cuda".
        autocast: its 16-bit type.

    Example:
        >>> from hf_jepa.training.estimate_recipes import read_job
        >>> sizes = '{"hidden_size": 48, "num_hidden_layers": 1, "pred_num_hidden_layers": 1}'
        >>> job = read_job("ijepa", ["--model_config", sizes])
        >>> measured_peak(job, 2, "cpu") > 2**20
        True
    """
    torch.manual_seed(0)
    model = job.model(device)
    inputs = job.inputs(model, samples)
    inputs = tree_map_only(torch.Tensor, lambda x: torch.randn(x.shape) if x.is_meta else x, inputs)
    inputs = tree_map_only(torch.Tensor, lambda x: x.to(device), inputs)
    optimizer = job.optimizer(model)

    def step() -> None:
        optimizer.zero_grad()
        with nullcontext() if autocast is None else torch.autocast(device, dtype=autocast):
            loss = model(**inputs)["loss"]
        loss.backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    there = [*model.parameters(), *model.buffers(), *tree_leaves([list(optimizer.state.values()), inputs])]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in there if isinstance(x, torch.Tensor)}
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports its start and stop on the terminal
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        step()
    return sum(storage.nbytes() for storage in storages.values()) + allocated_peak(run)


__all__ = ["measured_peak"]
