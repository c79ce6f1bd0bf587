"""What to do about a run that does not fit into memory, with numbers."""

import re
import resource
import sys
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import Trainer, TrainerCallback


CPU_MESSAGE = "DefaultCPUAllocator: can't allocate memory"
USABLE = 0.95  # of a device; the rest is lost to fragments
ADAM_STATES = 2  # tensors of the size of a weight
ACTIVATIONS = 16  # of a transformer layer that are kept for its gradient, in sizes of its input
_SIZES = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Memory:
    """Memory of one device, in bytes.

    Attributes:
        total: of the device.
        fixed: weights, gradients and states of the optimizer, whatever the batch.
        peak: the most that was used, with what could not be had.
        batch: samples that the peak was measured with.
        complete: whether a whole step was measured, rather than one up to where memory ran out.
    """

    total: int
    fixed: int
    peak: int
    batch: int
    complete: bool = True

    @property
    def per_sample(self) -> float:
        """What grows with the batch, at least one byte."""
        return max(1.0, (self.peak - self.fixed) / self.batch)


def largest_batch(memory: Memory, activations: float = 1.0, fixed: float = 1.0) -> int:
    """How many samples fit onto the device, as far as memory is a fixed part and one for every sample.

    Args:
        memory: as measured.
        activations: factor on the part of every sample, such as 0.5 for 16 bits.
        fixed: factor on the fixed part, such as a quarter for shards of four processes.

    Example:
        >>> memory = Memory(total=100, fixed=20, peak=116, batch=32)
        >>> largest_batch(memory), largest_batch(memory, activations=0.5), largest_batch(memory, fixed=0.25)
        (25, 50, 30)
    """
    return max(0, int((USABLE * memory.total - fixed * memory.fixed) / (activations * memory.per_sample)))


def same_global_batch(fits: int, batch: int, accumulation: int) -> tuple[int, int] | None:
    """The largest batch per device that fits, and the accumulation that keeps the global batch; None if none does.

    Example:
        >>> same_global_batch(25, batch=32, accumulation=2), same_global_batch(0, batch=32, accumulation=2)
        ((16, 4), None)
    """
    samples = batch * accumulation
    sizes = [size for size in range(1, min(fits, samples) + 1) if samples % size == 0]
    return (sizes[-1], samples // sizes[-1]) if sizes else None


def fixes(memory: Memory, batch: int, accumulation: int, layers: int, world_size: int, **uses: bool) -> list[str]:
    """Ways out, each with the batch per device that it is estimated to allow.

    Args:
        memory: as measured.
        batch, accumulation: per_device_train_batch_size and gradient_accumulation_steps of the run.
        layers: of the encoder.
        world_size: processes.
        uses: what the run has already: `checkpointing`, `half` (16 bits), `sharded` (ZeRO or FSDP).
    """
    lines = []
    bound = "" if memory.complete else "at most "  # the step would have taken more
    fits = largest_batch(memory)
    if not memory.complete:
        fits = min(fits, batch - 1)
    if pair := same_global_batch(fits, batch, accumulation):
        lines.append(
            f"per_device_train_batch_size={pair[0]} gradient_accumulation_steps={pair[1]}: {bound}{fits} samples fit, "
            "and the global batch stays the same (batch statistics, as of SIGReg or VICReg, are then those of less)"
        )
    else:
        lines.append("no smaller batch helps: not one sample fits beside weights and optimizer")
    share = 1 / ACTIVATIONS + 1 / max(1, layers)
    ways = (
        ("checkpointing", "gradient_checkpointing=true", {"activations": min(1.0, share)}, "slower by about a third"),
        ("half", "bf16=true", {"activations": 0.5}, "weights stay in float32"),
        ("sharded", "accelerate launch with zero2.yaml, zero3.yaml or fsdp2.yaml", {"fixed": 1 / world_size}, ""),
    )
    for name, how, factors, remark in ways:
        if not uses.get(name, False) and (name != "sharded" or world_size > 1):
            fits = largest_batch(memory, **factors)
            lines.append(f"{how}: {bound}about {fits} samples fit" + (f" ({remark})" if remark else ""))
    return [*lines, "`hf-jepa estimate` computes what a recipe needs before it runs"]


class OutOfMemoryMixin:
    """A `Trainer` that says, when memory runs out, what was used and what would fit.

    With `auto_find_batch_size` the Trainer tries smaller batches by itself first.

    Raises:
        torch.OutOfMemoryError: with sizes, and estimates from the peak of the steps before, or else of this one.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._at_start = _MemoryAtStart()
        super().__init__(*args, **kwargs)
        self.add_callback(self._at_start)

    def train(self: Trainer, *args: Any, **kwargs: Any):
        try:
            return super().train(*args, **kwargs)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and CPU_MESSAGE not in str(error):
                raise
            raise torch.OutOfMemoryError(out_of_memory_message(self, self._at_start, str(error))) from error


class _MemoryAtStart(TrainerCallback):
    """What is taken when a step begins, read where the allocator counts it, without waiting for the device."""

    def __init__(self):
        self.used = self.step = 0
        self.peak: int | None = None  # of whole steps

    def on_train_begin(self, args, state, control, **kwargs):
        self.first, self.peak = state.global_step, None

    def on_step_begin(self, args, state, control, **kwargs):
        self.step = state.global_step
        if self.step - self.first < 2:  # the second one finds the states of the optimizer
            self.used = used(args.device)

    def on_step_end(self, args, state, control, **kwargs):
        if args.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(args.device)


def used(device: torch.device) -> int:
    """Bytes of tensors on a GPU, or of the whole process."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def out_of_memory_message(trainer: Trainer, start: _MemoryAtStart, cause: str) -> str:
    """What was used, and ways out.

    Args:
        trainer: whose step failed.
        start: what it noted.
        cause: the message of the allocator.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    first = start.step == start.first
    fixed = start.used + (0 if sharded else gradients * (1 + ADAM_STATES * first))
    if args.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(args.device)
        peak = torch.cuda.max_memory_allocated(args.device)
        place = torch.cuda.get_device_name(args.device)
    else:
        free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        place = "CPU"
    complete = start.peak is not None
    peak = max(peak + asked_for(cause), fixed)
    memory = Memory(total, fixed, peak, args.per_device_train_batch_size, complete)
    shapes = ", ".join(
        f"{name} {tuple(value.shape)}" for name, value in _last_inputs(trainer).items() if hasattr(value, "shape")
    )
    uses = {"checkpointing": args.gradient_checkpointing, "half": args.bf16 or args.fp16, "sharded": sharded}
    layers = getattr(model.config, "num_hidden_layers", 12)
    lines = fixes(
        memory, args.per_device_train_batch_size, args.gradient_accumulation_steps, layers, args.world_size, **uses
    )
    doing = "step" if model.training else f"evaluation (per_device_eval_batch_size={args.per_device_eval_batch_size})"
    return "\n".join(
        [
            f"out of memory in {doing} {start.step + 1} of rank {args.process_index} on {place}: {_gib(total)} in "
            f"all, {_gib(free)} free, {_gib(asked_for(cause))} asked for",
            f"per_device_train_batch_size={args.per_device_train_batch_size} ({shapes}) took {_gib(memory.peak)}, of "
            f"that {_gib(fixed)} for weights, gradients and optimizer and {_gib(memory.per_sample)} for every sample"
            + ("" if complete else ", up to where memory ran out"),
            *(f"- {line}" for line in lines),
            cause.splitlines()[0],
        ]
    )


def asked_for(cause: str) -> int:
    """Bytes that an allocator's message says it could not give.

    Example:
        >>> asked_for("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has ...") == 1.5 * 2**30
        True
        >>> asked_for("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. Error code 12")
        4096
    """
    found = re.search(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)", cause)
    return int(float(found[1]) * _SIZES[found[2]]) if found else 0


def _last_inputs(trainer: Trainer) -> dict[str, Any]:
    inputs = trainer._watch.inputs
    return inputs[-1] if inputs else {}


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.2f} MiB"


__all__ = ["Memory", "OutOfMemoryMixin", "fixes", "largest_batch", "out_of_memory_message", "same_global_batch"]
