"""What a training step holds in memory, found by running it on tensors that have sizes and no values."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any
from unittest.mock import patch

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop
from transformers import pytorch_utils


_FLOPS = flop_registry | {  # attention on a CPU computes what that on a GPU does
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step, in a process that holds all of the model.

    Args:
        weights: trained parameters.
        frozen: the others, such as those of a target encoder.
        tables: buffers, such as fixed positions.
        gradients: of all trained parameters.
        optimizer: what it keeps between steps.
        inputs: the batch.
        saved: what the forward pass leaves for the backward pass, `casts` included.
        casts: weights in the 16-bit type of autocast, of `saved`.
        working: most bytes alive at one time beyond all of the above but `saved`: activations, casts and temporary
            tensors, without gradients of parameters.
        with_gradients: most bytes of both, where each gradient counts from the time when it is made.
        update: most bytes alive in the step of the optimizer beyond weights, gradients and what it keeps.
        flops: floating point operations of forward and backward pass (no bytes).
    """

    weights: int
    frozen: int
    tables: int
    gradients: int
    optimizer: int
    inputs: int
    saved: int
    casts: int
    working: int
    with_gradients: int
    update: int
    flops: int


class _Alive(TorchDispatchMode):
    """Counts the bytes of storages while they are alive, by kind, and floating point operations.

    `torch.distributed._tools.MemTracker` does so by module as well, but refuses models with frozen parameters.
    """

    def __init__(self, chosen: dict[int, int]):
        super().__init__()
        self.chosen = chosen  # size of a boolean mask -> how much of it is true
        self.kinds: dict[int, str] = {}  # by the id of the storage
        self.bytes = dict.fromkeys(("given", "casts", "gradients", "other"), 0)
        self.flops = 0
        self.forget_peaks()

    def forget_peaks(self) -> None:
        self.working = self.with_gradients = 0

    def add(self, tensor: torch.Tensor, kind: str) -> None:
        """Count the storage of a tensor, unless it is counted already: then it changes its kind."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.kinds:
            self.bytes[self.kinds[key]] -= size
        else:
            weakref.finalize(storage, self._free, key, size)
        self.kinds[key] = kind
        self.bytes[kind] += size
        working = self.bytes["other"] + self.bytes["casts"]
        self.working = max(self.working, working)
        self.with_gradients = max(self.with_gradients, working + self.bytes["gradients"])

    def _free(self, key: int, size: int) -> None:
        self.bytes[self.kinds.pop(key)] -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.index.Tensor and (indices := self._places(args[1])):
            args = (args[0], indices)
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.overloadpacket in _FLOPS:
            self.flops += _FLOPS[func.overloadpacket](*args, **kwargs, out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in self.kinds:
                self.add(tensor, "casts" if self._is_cast(func, args, tensor) else "other")
        return result

    def _places(self, indices: list[torch.Tensor | None]) -> list[torch.Tensor] | None:
        """Instead of a boolean mask of the batch, which has no values here, as many places as it is true at."""
        (mask, *others) = indices
        if others or mask is None or mask.dtype != torch.bool or mask.numel() not in self.chosen:
            return None
        return [torch.empty(self.chosen[mask.numel()], dtype=torch.long)] * mask.ndim

    def _is_cast(self, func: Any, args: tuple, result: torch.Tensor) -> bool:
        if func is not torch.ops.aten._to_copy.default or result.dtype not in (torch.bfloat16, torch.float16):
            return False
        return self.kinds.get(id(args[0].untyped_storage())) == "given"


def between(first: tuple[int, StepMemory], second: tuple[int, StepMemory], samples: int) -> StepMemory:
    """The step of a batch of another size, on straight lines through two that were traced.

    Example:
        >>> none = dict.fromkeys((field.name for field in fields(StepMemory)), 0)
        >>> steps = [(n, StepMemory(**none | {"saved": 10 * n, "working": 12 * n + 1})) for n in (2, 4)]
        >>> between(*steps, 100).working
        1201
    """
    (n, a), (m, b) = first, second
    lines = {
        field.name: getattr(a, field.name)
        + (getattr(b, field.name) - getattr(a, field.name)) * (samples - n) / (m - n)
        for field in fields(StepMemory)
    }
    # Gradients come while activations go: for large batches the peak is at the start of the backward pass.
    lines["with_gradients"] = max(lines["with_gradients"], lines["working"])
    return StepMemory(**{name: round(value) for name, value in lines.items()})


def step_memory(
    model: nn.Module,
    inputs: dict[str, Any],
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    autocast: torch.dtype | None = None,
) -> StepMemory:
    """Run forward, backward and optimizer step of a model without values, and count.

    Sizes are those of PyTorch's operations on a CPU. Those on a GPU keep the same tensors for the backward pass, where
    attention is that of `scaled_dot_product_attention`; what a kernel allocates inside itself is not counted.

    Args:
        model: on the meta device, in training mode; its parameters are replaced.
        inputs: arguments of its forward; of tensors only shape and type matter.
        make_optimizer: called with the model.
        autocast: its 16-bit type.

    Example:
        >>> with torch.device("meta"):
        ...     model = nn.Linear(8, 4)
        >>> model.forward = lambda x: {"loss": nn.functional.linear(x, model.weight, model.bias).sum()}
        >>> found = step_memory(model, {"x": torch.empty(2, 8)}, lambda model: torch.optim.AdamW(model.parameters()))
        >>> found.weights, found.gradients, found.inputs
        (144, 144, 64)
    """
    masks = [x for x in tree_leaves(inputs) if isinstance(x, torch.Tensor) and x.dtype == torch.bool]
    alive = _Alive({mask.numel(): int(mask.sum()) for mask in masks})
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        return FakeTensor(mode, torch.empty_like(tensor, device="meta"), torch.device("cpu"))

    _replace_tensors(model, fake)
    inputs = tree_map_only(torch.Tensor, fake, inputs)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    given = {"weights": trained, "frozen": frozen, "tables": list(model.buffers())}
    given["inputs"] = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    forward = model if autocast is None else convert_outputs_to_fp32(torch.autocast("cpu", dtype=autocast)(model))
    handles = [
        parameter.register_post_accumulate_grad_hook(lambda parameter: alive.add(parameter.grad, "gradients"))
        for parameter in trained
    ]
    with _nothing_kept(), mode, alive:
        for tensor in (tensor for tensors in given.values() for tensor in tensors):
            alive.add(tensor, "given")
        loss = forward(**inputs)["loss"]
        casts = alive.bytes["casts"]
        saved = alive.bytes["other"] + casts
        loss.backward()
        del loss
        flops = alive.flops
        peaks = (alive.working, alive.with_gradients)
        optimizer = make_optimizer(model)
        optimizer.step()
        kept = [leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, torch.Tensor)]
        for tensor in kept:
            alive.add(tensor, "given")
        rest = alive.bytes["other"]
        alive.forget_peaks()
        optimizer.step()
        update = max(0, alive.working - rest)
    for handle in handles:
        handle.remove()
    sizes = {name: _size(tensors) for name, tensors in given.items()}
    gradients = _size([parameter.grad for parameter in trained if parameter.grad is not None])
    return StepMemory(**sizes, gradients=gradients, optimizer=_size(kept), saved=saved, casts=casts, update=update,
                      working=peaks[0], with_gradients=peaks[1],
                      flops=flops)  # fmt: skip


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Tables that transformers computes once per process must not become tensors without values."""
    with patch.object(pytorch_utils, "is_torchdynamo_compiling", return_value=True):
        yield


def _replace_tensors(model: nn.Module, fake: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Parameters and buffers by fake ones; those that are tied stay so."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                new = made.get(id(parameter))
                new = nn.Parameter(fake(parameter), parameter.requires_grad) if new is None else new
                module._parameters[name] = made[id(parameter)] = made[id(new)] = new
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake(buffer)


def _size(tensors: list[torch.Tensor]) -> int:
    return sum({id(tensor.untyped_storage()): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


__all__ = ["StepMemory", "between", "step_memory"]
