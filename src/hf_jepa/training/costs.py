"""What training costs: the time of a step, tokens that encoders read, memory."""

import contextlib
import os
import re
import time

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm
from transformers import Trainer


# Of the encoders of a pretraining model; what a predictor reads is not counted.
_FIRST_LAYER = re.compile(r"(?<!predictor)\.layers?\.0$")


class StepClock:
    """Counts the optimizer steps of a run on a bar, and the time they take."""

    def __init__(self, title: str, steps: int):
        self.bar = tqdm(total=steps, desc=title, unit="step", mininterval=1.0)
        self.times: list[tuple[float, float]] = []

    def __enter__(self) -> "StepClock":
        self.handle = register_optimizer_step_post_hook(self._tick)
        return self

    def _tick(self, *_) -> None:
        self.bar.update()
        self.times.append((time.process_time(), time.perf_counter()))

    def __exit__(self, *_) -> None:
        self.handle.remove()
        self.bar.close()

    def milliseconds(self) -> dict[str, float]:
        """Of a step, the first one (which warms up) left out unless it is the only one."""
        steps = max(1, len(self.times) - 1)
        spent = [1000 * (last - first) / steps for first, last in zip(self.times[0], self.times[-1], strict=True)]
        return {"cpu_ms": spent[0], "wall_ms": spent[1]}


def cost(trainer: Trainer) -> dict[str, float]:
    """Tokens that the encoders read per image, peak memory of a step in MiB, and trained parameters.

    One more forward and backward pass on a batch of the training data. On a GPU the peak is that of PyTorch's
    allocator; on the CPU it is the weights, their gradients and the state of the optimizer, plus the largest total of
    tensors that live at one time during the pass, from the profiler's record of allocations. The memory of the process
    would also count what libraries keep, and what earlier runs left.
    """
    model = trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    images = len(batch["sample_index"])
    tokens = 0

    def count(module: nn.Module, args: tuple) -> None:
        nonlocal tokens
        tokens += args[0].shape[:-1].numel()

    layers = [module for name, module in model.named_modules() if _FIRST_LAYER.search(f".{name}")]
    handles = [layer.register_forward_pre_hook(count) for layer in layers]
    cuda = next(model.parameters()).is_cuda
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports its start and stop on the terminal
    with contextlib.nullcontext() if cuda else profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        trainer.training_step(model, batch)
    for handle in handles:
        handle.remove()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    peak = torch.cuda.max_memory_allocated() if run is None else _resident(trainer) + allocated_peak(run)
    return {"tokens_per_image": tokens / images, "memory_mib": peak / 2**20, "trained_parameters": trained}


def _resident(trainer: Trainer) -> int:
    """Bytes of the weights, and of what the optimizer keeps."""
    state = [value for entry in trainer.optimizer.state.values() for value in entry.values()]
    tensors = [*trainer.model.parameters(), *trainer.model.buffers(), *state]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, torch.Tensor))


def allocated_peak(run: profile) -> int:
    """Most bytes alive at one time during a profiled stretch beyond those alive at its start, on the CPU."""
    events = [event for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


__all__ = ["StepClock", "allocated_peak", "cost"]
