"""How fast a run goes: samples, tokens and operations in a second, memory, waiting for data, time of the average."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from hf_jepa.core.clips import as_groups
from hf_jepa.training.costs import Counts, counted


# Dense TFLOP/s by makers' data sheets: 16-bit types, TF32, float32. The first name that the device's contains counts.
PEAK_TFLOPS = {
    "B200": (2250.0, 1125.0, 75.0),
    "H200": (989.4, 494.7, 66.9),
    "GH200": (989.4, 494.7, 66.9),
    "H100 PCIe": (756.0, 378.0, 51.2),
    "H100 NVL": (835.0, 417.5, 60.0),
    "H100": (989.4, 494.7, 66.9),
    "H800": (989.4, 494.7, 66.9),
    "A100": (312.0, 156.0, 19.5),
    "A800": (312.0, 156.0, 19.5),
    "A10G": (70.0, 35.0, 31.5),
    "A10": (125.0, 62.5, 31.2),
    "A30": (165.0, 82.0, 10.3),
    "A40": (149.7, 74.8, 37.4),
    "L40S": (362.0, 183.0, 91.6),
    "L40": (181.0, 90.5, 90.5),
    "L4": (121.0, 60.0, 30.3),
    "V100": (125.0, 15.7, 15.7),
    "T4": (65.0, 8.1, 8.1),
    "RTX 3090": (71.0, 35.6, 35.6),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX 5090": (209.5, 104.8, 104.8),
}
_MAX_SHAPES = 32  # batches of so many different shapes are counted; others cost what the most similar of them does


@dataclass
class ThroughputArguments:
    """The part of a run's arguments that `ThroughputMixin` reads."""

    peak_tflops: float | None = field(
        default=None,
        metadata={"help": "Peak TFLOP/s of one device, for mfu; default: by its name and the precision of the run."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise ValueError(f"peak_tflops={self.peak_tflops} must be above 0: TFLOP/s of one device")


def peak_tflops(device_name: str, sixteen_bit: bool, tf32: bool) -> float | None:
    """Dense peak of a GPU by its name; None for one that is not in the table.

    Args:
        device_name: as `torch.cuda.get_device_name` says it.
        sixteen_bit: the run multiplies in bfloat16 or float16.
        tf32: products of float32 may be rounded to TF32.

    Example:
        >>> peak_tflops("NVIDIA H100 PCIe", sixteen_bit=True, tf32=False)
        756.0
        >>> peak_tflops("NVIDIA A100-SXM4-80GB", sixteen_bit=False, tf32=True)
        156.0
    """
    found = next((peaks for name, peaks in PEAK_TFLOPS.items() if name in device_name), None)
    return None if found is None else found[0 if sixteen_bit else 1 if tf32 else 2]


@dataclass
class Work:
    """What was done between two logs, by one process or by all.

    Args:
        samples: images, clips, recordings, texts or pairs.
        tokens, flops: see `Counts`.
        steps: optimizer steps.
        seconds: of the wall clock, without evaluation and saving.
        waited: seconds of these in which no batch was there.
        average: seconds of these in which the target encoder moved.
    """

    samples: int = 0
    tokens: float = 0.0
    flops: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    average: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, name.name) + getattr(other, name.name) for name in fields(self)))


class Meter:
    """Measures work on this process's clock. Nothing here waits for a device until `take`.

    Example:
        >>> meter = Meter(torch.device("cpu"))
        >>> meter.start()
        >>> batches = list(meter.waiting_for(["a batch"]))
        >>> meter.work.samples += 8
        >>> work = meter.take()
        >>> work.samples, 0 < work.waited < work.seconds
        (8, True)
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.start()

    def start(self) -> None:
        """Begin anew, now."""
        self.work = Work()
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._paused, self._began = 0, time.perf_counter()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """What is no training: evaluation, saving. Pauses may lie in one another."""
        if self._paused == 0:
            self._stop()
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1
            if self._paused == 0:
                self._began = time.perf_counter()

    def _stop(self) -> None:
        if self.device.type == "cuda":  # what is queued there still belongs to the training
            torch.cuda.synchronize(self.device)
        self.work.seconds += time.perf_counter() - self._began

    def waiting_for(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; the time until each is there counts as waiting."""
        batches = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.work.waited += time.perf_counter() - began
            yield batch

    @contextlib.contextmanager
    def averaging(self) -> Iterator[None]:
        """The update of the target encoder; on a GPU by events in its queue, which are read with the next log."""
        if self.device.type == "cuda":
            events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
            events[0].record()
            yield
            events[1].record()
            self._events.append(events)
        else:
            began = time.perf_counter()
            yield
            self.work.average += time.perf_counter() - began

    def take(self) -> Work:
        """The work since `start` or the last call; the clock goes on from here."""
        if self._paused == 0:
            self._stop()
        work = self.work
        work.average += sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
        paused = self._paused
        self.start()
        self._paused = paused
        return work


class ThroughputMixin:
    """A `Trainer` whose logs say how fast it goes, over all processes and since the last log.

    `<samples>_per_second` and `tokens_per_second` (that the encoders read); `mfu`, the share of the devices' peak that
    model operations make up, or `tflops` (in a second) where the peak is not known; `memory_gib`, the most that one
    process has had so far (on a GPU of PyTorch's allocator, else of the process); `data_wait`, the share of the time
    in which no batch was there; `ema_ms`, the time in which the target encoder moves, in a step.

    Time of evaluation and saving is left out. Tokens and operations follow from shapes: those of the first 32 shapes
    are counted in the forward pass of a step, without reading a value; batches of other shapes take those of the most
    similar one. The first log, in which kernels are chosen and compiled, does not count in `throughput`, the means of
    the run, where there are others.

    No step waits for a device: batches are brought there by the step that needs them, behind what is queued, and what
    only the host reads (`sample_index`) stays with it.
    """

    samples = "samples"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.meter = Meter(self.args.device)
        self._intervals: list[Work] = []
        self._counted: dict[tuple, Counts] = {}
        self._memory = self._flops = 0.0
        self.add_callback(_Clock(self))

    def get_train_dataloader(self: Trainer) -> DataLoader:
        loader = super().get_train_dataloader()
        if isinstance(loader, DataLoaderShard):  # it would wait for each copy, also of what is read on the host only
            loader.device = None
        return loader

    def _prepare_input(self: Trainer, data: Any) -> Any:
        if isinstance(data, torch.Tensor) and data.device.type == "cpu" and self.args.device.type == "cuda":
            data = data.pin_memory().to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def _get_grad_norm(self: Trainer, model, grad_norm=None):
        """As the Trainer's, without its pass over all gradients that multiplies them by one."""
        if grad_norm is None and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            self.accelerator.unscale_gradients()
            found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            grad_norm = torch.nn.utils.get_total_norm(found)
        return super()._get_grad_norm(model, grad_norm)

    def get_batch_samples(self: Trainer, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        return super().get_batch_samples(self.awaited(epoch_iterator), num_batches, device)

    def awaited(self, epoch_iterator: Iterator) -> Iterator[dict[str, Any]]:
        """The batches of the loader, timed and counted; for a `get_batch_samples` of its own."""
        for batch in self.meter.waiting_for(epoch_iterator):
            if "sample_index" in batch:
                self.meter.work.samples += sum(len(index) for index in as_groups(batch["sample_index"]))
            else:
                self.meter.work.samples += self.args.train_batch_size
            yield batch

    def compute_loss(self: Trainer, model, inputs, *args: Any, **kwargs: Any):
        if not self.model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        shapes = _shapes(inputs)
        watched = contextlib.nullcontext(self._counted.get(shapes))
        if shapes not in self._counted and len(self._counted) < (1 if self.args.torch_compile else _MAX_SHAPES):
            if self.args.torch_compile:  # a compiled pass cannot be watched
                self._counted[shapes] = self._count_apart(inputs)
            else:
                watched = counted(self.model)
        with watched as counts:
            result = super().compute_loss(model, inputs, *args, **kwargs)
        counts = self._counted.setdefault(shapes, counts) if counts else self._counted[_nearest(shapes, self._counted)]
        self.meter.work.tokens += counts.tokens
        self.meter.work.flops += counts.flops
        self._flops = counts.flops
        return result

    def floating_point_ops(self, inputs: dict[str, Any]) -> float:
        """Of the last batch. (The Trainer counts parameters anew at every step, and takes pixels for tokens.)"""
        return self._flops

    def _count_apart(self: Trainer, inputs: dict[str, Any]) -> Counts:
        """A pass of the uncompiled model, which leaves random numbers and statistics as they were."""
        before = [value.clone() for value in self.model.buffers()]
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices), counted(self.model) as counts:
            self.model(**inputs)
        for value, old in zip(self.model.buffers(), before, strict=True):
            value.copy_(old)
        return counts

    def evaluate(self, *args: Any, **kwargs: Any):
        with self.meter.pause():
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.meter.pause():
            super()._save_checkpoint(*args, **kwargs)

    def log(self: Trainer, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            work = self.meter.take()
            with self.meter.pause():
                parts = gather_object([(work, _memory_gib(self.args.device))])
                work = sum((each for each, _ in parts[1:]), parts[0][0])
                self._memory = max(memory for _, memory in parts)
                self._intervals.append(work)
                logs |= {name: float(f"{value:.4g}") for name, value in self._rates(work).items()}
                super().log(logs, start_time)
        else:
            super().log(logs, start_time)

    def throughput(self) -> dict[str, float]:
        """Means over the run, as they are named in the log; nothing before the first log."""
        if not self._intervals:
            return {}
        return self._rates(sum(self._intervals[2:], self._intervals[min(1, len(self._intervals) - 1)]))

    def _rates(self: Trainer, work: Work) -> dict[str, float]:
        processes = self.args.world_size
        seconds = max(work.seconds / processes, 1e-9)
        rates = {f"{self.samples}_per_second": work.samples / seconds}
        if work.tokens:
            rates["tokens_per_second"] = work.tokens / seconds
        tflops, peak = work.flops / seconds / 1e12, self._peak_tflops()
        rates |= {"tflops": tflops} if peak is None else {"mfu": tflops / (peak * processes)}
        rates |= {"memory_gib": self._memory, "data_wait": work.waited / max(work.seconds, 1e-9)}
        if work.average:
            rates["ema_ms"] = 1000 * work.average / max(work.steps, 1)
        return rates

    def _peak_tflops(self: Trainer) -> float | None:
        args = self.args
        if args.peak_tflops is not None or args.device.type != "cuda":
            return args.peak_tflops
        tf32 = torch.get_float32_matmul_precision() != "highest"
        return peak_tflops(torch.cuda.get_device_name(args.device), args.bf16 or args.fp16, tf32)


class _Clock(TrainerCallback):
    def __init__(self, trainer: ThroughputMixin):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer._intervals.clear()
        self.trainer.meter.start()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.meter.work.steps += 1


def _shapes(inputs: Any) -> tuple:
    """What of a batch decides how much there is to compute; hashable."""
    if isinstance(inputs, torch.Tensor):
        return tuple(inputs.shape)
    if isinstance(inputs, dict):
        return tuple((name, _shapes(value)) for name, value in inputs.items())
    return tuple(map(_shapes, inputs)) if isinstance(inputs, list | tuple) else ()


def _nearest(shapes: tuple, counted: dict[tuple, Counts]) -> tuple:
    return min(counted, key=lambda known: abs(_size(known) - _size(shapes)))


def _size(shapes: tuple) -> int:
    """Elements of all tensors of a batch, which grow with its tokens."""
    if shapes and all(isinstance(extent, int) for extent in shapes):
        return torch.Size(shapes).numel()
    return sum(_size(part) for part in shapes if isinstance(part, tuple))


def _memory_gib(device: torch.device) -> float:
    """Most memory so far, of PyTorch's allocator on a GPU, else of the process (0 where the system does not say)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if os.name != "posix":
        return 0.0
    import resource  # only there on such systems

    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


__all__ = ["PEAK_TFLOPS", "Meter", "ThroughputArguments", "ThroughputMixin", "Work", "peak_tflops"]
