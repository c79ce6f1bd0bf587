"""How the engines divide what a step holds in memory over processes, and what they hold beside it."""

from dataclasses import dataclass
from pathlib import Path

import yaml
from torch import nn

from hf_jepa.training.estimate_step import StepMemory


FLOAT = 4  # bytes of a weight: the project trains in float32, also where autocast computes in 16 bits
STRATEGIES = ("single", "ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
CONFIGS = Path(__file__).parent / "accelerate_configs"
# Defaults of DeepSpeed 0.19, in elements; configs of Accelerate leave them as they are.
REDUCE_BUCKET = 500_000_000  # gradients on their way, per type in which they travel
PREFETCH_BUCKET = 50_000_000  # weights that ZeRO-3 gathers ahead
PERSISTENT = 100_000  # parameters up to this size stay whole under ZeRO-3
REUSE_DISTANCE = 1_000_000_000  # ZeRO-3 keeps weights gathered that are needed again within so many


@dataclass(frozen=True)
class Strategy:
    """Which engine, on how many processes.

    Args:
        name: one of `STRATEGIES`.
        processes: GPUs, W.
        offload_optimizer, offload_weights: to the host's memory.

    Raises:
        ValueError: an unknown name, or several processes of a single one.

    Example:
        >>> Strategy("zero2", 8).stage
        2
    """

    name: str
    processes: int = 1
    offload_optimizer: bool = False
    offload_weights: bool = False

    def __post_init__(self):
        if self.name not in STRATEGIES:
            raise ValueError(f"strategy {self.name!r} is not one of {', '.join(STRATEGIES)}")
        if self.processes < 1 or (self.name == "single" and self.processes > 1):
            raise ValueError(f"{self.processes} processes cannot be strategy {self.name!r}")
        if self.name == "zero3_offload":
            object.__setattr__(self, "offload_optimizer", True)
            object.__setattr__(self, "offload_weights", True)

    @property
    def stage(self) -> int:
        """Of ZeRO; 0 for others."""
        return int(self.name[4]) if self.name.startswith("zero") else 0


def read_strategy(config: str, processes: int | None = None) -> Strategy:
    """The strategy of a config file of `accelerate launch`.

    Args:
        config: the file, or the name of one of the package.
        processes: instead of those in the file.

    Raises:
        ValueError: no such file, or a kind of launch that is not estimated.

    Example:
        >>> read_strategy("zero3")
        Strategy(name='zero3', processes=8, offload_optimizer=False, offload_weights=False)
    """
    path = Path(config)
    path = path if path.is_file() else CONFIGS / f"{path.stem}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
        raise ValueError(f"config {config!r} does not exist: name a file, or one of {known}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    processes = processes or values.get("num_processes", 1)
    kind, deepspeed = values.get("distributed_type"), values.get("deepspeed_config") or {}
    if kind == "DEEPSPEED":
        if "zero_stage" not in deepspeed:
            raise ValueError(f"{path}: deepspeed_config names no zero_stage")
        devices = [deepspeed.get(f"offload_{part}_device", "none") for part in ("optimizer", "param")]
        optimizer, weights = (device not in (None, "none") for device in devices)
        stage = deepspeed["zero_stage"]
        return Strategy(f"zero{stage}" if stage else "ddp", processes, optimizer, weights)
    if kind == "FSDP":
        return Strategy("fsdp2", processes)
    if kind == "MULTI_GPU" and processes > 1:
        return Strategy("ddp", processes)
    if kind in ("NO", False, "MULTI_GPU"):
        return Strategy("single")
    raise ValueError(f"{path}: distributed_type {kind!r} is not estimated, only NO, MULTI_GPU, DEEPSPEED and FSDP")


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters, of which engines make their buffers.

    Args:
        trained: that are trained.
        persistent: in parameters that ZeRO-3 keeps whole.
        unit: of the largest layer that is gathered as one.
        rest: outside of such layers.
    """

    trained: int
    persistent: int
    unit: int
    rest: int

    @classmethod
    def of(cls, model: nn.Module) -> "Sizes":
        """Count. Layers that are gathered as one are those of `_no_split_modules`, as Accelerate takes them."""
        names = set(getattr(model, "_no_split_modules", None) or ())
        for part in model.modules():
            names |= set(getattr(part, "_no_split_modules", None) or ())
        units = [part for part in model.modules() if type(part).__name__ in names]
        inside = {id(parameter) for unit in units for parameter in unit.parameters()}
        parameters = list(model.parameters())
        return cls(
            trained=sum(p.numel() for p in parameters if p.requires_grad),
            persistent=sum(p.numel() for p in parameters if p.numel() <= PERSISTENT),
            unit=max((sum(p.numel() for p in unit.parameters()) for unit in units), default=0),
            rest=sum(p.numel() for p in parameters if id(p) not in inside),
        )


def divide(
    step: StepMemory, sizes: Sizes, strategy: Strategy, accumulates: bool = False
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of one process by part.

    Args:
        step: what a process would hold alone.
        sizes: of its model.
        strategy: how it is divided.
        accumulates: the gradients of earlier batches are there while the next one is computed.

    Returns:
        those in the memory of its device, and those in that of the host.
    """
    stage, processes, fsdp = strategy.stage, strategy.processes, strategy.name == "fsdp2"
    sharded = stage == 3 or fsdp

    def share(size: int) -> int:
        return -(-size // processes)

    gradients = max(step.gradients if accumulates else step.with_gradients - step.working, 0)
    gradients = max(gradients, step.gradients + step.update - step.working)
    device = {
        "weights": share(step.weights) if sharded else step.weights,
        "target encoder and others that are frozen": share(step.frozen) if sharded else step.frozen,
        "copy of this process's share of weights": share(step.weights) if stage in (1, 2) else 0,
        "optimizer": share(step.optimizer) if stage or fsdp else step.optimizer,
        "gradients": share(step.gradients) if stage > 1 or fsdp else gradients,
        "buffers of the engine": 0,
        "tables": step.tables,
        "batch": step.inputs,
        "activations for backward": step.saved - step.casts,
        "16-bit copies of weights": step.casts,
        "temporary": step.working - step.saved,
    }
    if fsdp:
        # The root stays gathered; a layer and the next one, its buffer, and gradients on their way and back.
        device["buffers of the engine"] = (sizes.rest + 5 * sizes.unit) * FLOAT
    elif strategy.name == "ddp":
        device["buffers of the engine"] = step.gradients  # buckets, beside the gradients themselves
    elif stage in (1, 2):
        device["buffers of the engine"] = REDUCE_BUCKET * FLOAT
    elif stage == 3:
        gathered = max(sizes.unit, min(sizes.trained, REUSE_DISTANCE // 2)) + sizes.persistent + PREFETCH_BUCKET
        device["buffers of the engine"] = (gathered + REDUCE_BUCKET) * FLOAT
    host: dict[str, int] = {}
    if strategy.offload_optimizer:
        host = {name: device[name] for name in ("optimizer", "gradients")}
        host["weights in float32"] = share(step.weights)
        device |= {"optimizer": 0, "gradients": 0, "copy of this process's share of weights": 0}
    if strategy.offload_weights:
        moved = ("weights", "target encoder and others that are frozen")
        host |= {name: device[name] for name in moved}
        device |= dict.fromkeys(moved, 0)
    return device, host


__all__ = ["CONFIGS", "STRATEGIES", "Sizes", "Strategy", "divide", "read_strategy"]
