"""What is counted instead of timed, and so is the same in every run: operations and bytes."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_utils import PreTrainedModel


class _Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operations(function: Callable[[], object]) -> int:
    """Operations of PyTorch's dispatcher that are no views: on a GPU each of them is a kernel launched."""
    with torch.no_grad(), _Counter() as counter:
        function()
    return counter.count


def peak_memory(function: Callable[[], object]) -> float:
    """Most MiB of tensors that exist at one time during a call beyond those that exist before it.

    Read from the profiler's record of every allocation and release of PyTorch's CPU allocator: memory of the process
    would count what the C library keeps, too.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 2**20


def floating_point_operations(function: Callable[[], object], model: PreTrainedModel) -> int:
    """Of the matrix products of a call. The model's attention is made of them meanwhile: PyTorch does not count the
    kernel that it has for CPUs."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        function()
    model.set_attn_implementation(before)
    return counter.get_total_flops()
