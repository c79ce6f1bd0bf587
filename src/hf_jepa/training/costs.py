"""What training costs: the time of a step, tokens that encoders read, operations, memory."""

import contextlib
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm
from transformers import Trainer


# Of the encoders of a pretraining model; what a predictor reads is not counted.
_FIRST_LAYER = re.compile(r"(?<!predictor)\.layers?\.0$")


_PRODUCTS = (torch.matmul, torch.bmm, torch.mm, torch.Tensor.matmul, torch.Tensor.bmm, torch.Tensor.mm)
_PRODUCTS += (torch.Tensor.__matmul__,)
_TRANSPOSED = (nn.functional.conv_transpose1d, nn.functional.conv_transpose2d, nn.functional.conv_transpose3d)
_CONVOLUTIONS = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)


@dataclass
class Counts:
    """Of one forward pass, and of the backward pass that belongs to it.

    Args:
        tokens: that the first layers of encoders read; what a predictor reads is not counted. Of a target encoder
            these are those of whole images, of a context encoder those of the context.
        flops: of linear layers, convolutions, cells of a GRU, products of matrices and attention: two for each
            multiplication and addition, forward, and once more for each factor that gets a gradient. What is computed
            again for a gradient (activation checkpointing, the scores of attention) is not model work and does not
            count.
    """

    tokens: int = 0
    flops: int = 0


class _Operations(TorchFunctionMode):
    """Counts what is not a linear layer; those are watched by hooks, because kernels of their own hide in them."""

    def __init__(self, counts: Counts):
        super().__init__()
        self.counts, self.inside_linear = counts, 0

    def add(self, forward: int, *factors: torch.Tensor) -> None:
        gradients = sum(factor.requires_grad for factor in factors) if torch.is_grad_enabled() else 0
        self.counts.flops += forward * (1 + gradients)

    def enter_linear(self, *_) -> None:
        self.inside_linear += 1

    def leave_linear(self, linear: nn.Linear, args: tuple, out: torch.Tensor) -> None:
        self.inside_linear -= 1
        self.add(2 * out.numel() * linear.in_features, args[0], linear.weight)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if self.inside_linear:
            return out
        if func is nn.functional.linear:
            operands = (args + tuple((kwargs or {}).values()))[:2]  # peft names them
            self.add(2 * out.numel() * operands[0].shape[-1], *operands)
        elif func in _CONVOLUTIONS:
            self.add(2 * out.numel() * args[1].shape[1:].numel(), *args[:2])
        elif func in _TRANSPOSED:
            self.add(2 * args[0].numel() * args[1].shape[1:].numel(), *args[:2])
        elif func is torch.gru_cell:
            for x, weight in zip(args[:2], args[2:4], strict=True):  # of the input, of the hidden state
                self.add(2 * len(x) * weight.numel(), x, weight)
        elif func in _PRODUCTS:
            self.add(2 * out.numel() * args[0].shape[-1], *args[:2])
        elif func is nn.functional.scaled_dot_product_attention:
            query, key, value = args[:3]
            scores = math.prod(query.shape[:-1]) * key.shape[-2]
            self.add(2 * scores * query.shape[-1], query, key)
            self.add(2 * scores * value.shape[-1], query, value)  # the scores have a gradient where queries have one
        return out


@contextlib.contextmanager
def counted(model: nn.Module) -> Iterator[Counts]:
    """Counts of the forward pass in the block, from shapes alone; `model` must not be compiled.

    Attention is seen where PyTorch computes it, eager or sdpa, not in flash-attention's own kernels.

    Example:
        >>> model = nn.Linear(8, 4)
        >>> with counted(model) as counts:
        ...     _ = model(torch.randn(2, 8))
        >>> counts.flops == 2 * 2 * 8 * 4 * 2  # the input gets no gradient, the weight does
        True
    """
    counts = Counts()
    operations = _Operations(counts)

    def read(module: nn.Module, args: tuple) -> None:
        counts.tokens += args[0].shape[:-1].numel()

    layers = [module for name, module in model.named_modules() if _FIRST_LAYER.search(f".{name}")]
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [layer.register_forward_pre_hook(read) for layer in layers]
    handles += [module.register_forward_pre_hook(operations.enter_linear) for module in linear]
    handles += [module.register_forward_hook(operations.leave_linear) for module in linear]
    try:
        with operations:
            yield counts
    finally:
        for handle in handles:
            handle.remove()


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
    cuda = next(model.parameters()).is_cuda
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports its start and stop on the terminal
    memory = contextlib.nullcontext() if cuda else profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with counted(model) as counts, memory as run:
        trainer.training_step(model, batch)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    peak = torch.cuda.max_memory_allocated() if run is None else _resident(trainer) + allocated_peak(run)
    return {"tokens_per_image": counts.tokens / images, "memory_mib": peak / 2**20, "trained_parameters": trained}


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


__all__ = ["Counts", "StepClock", "allocated_peak", "cost", "counted"]
