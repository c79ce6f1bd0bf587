"""How much memory a run takes per GPU, before it is started."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hf_jepa.training.estimate_recipes import Job
from hf_jepa.training.estimate_step import StepMemory, step_memory
from hf_jepa.training.estimate_strategies import Sizes, Strategy, divide


GIB = 2**30
TRIES = 5  # batches that are traced to find the largest


@dataclass(frozen=True)
class Estimate:
    """Memory of one process.

    Args:
        device: bytes by part, in the memory of the GPU.
        host: bytes by part, in that of the machine.
        samples: of the batch of one process.
        flops: floating point operations of forward and backward pass of this batch.
    """

    device: dict[str, int]
    host: dict[str, int]
    samples: int
    flops: int

    @property
    def total(self) -> int:
        """Bytes in the memory of the GPU."""
        return sum(self.device.values())


class Estimator:
    """Estimates of one job under any strategy; a batch size is traced once.

    Args:
        job: from `read_job`.

    Example:
        >>> from hf_jepa.training.estimate_recipes import read_job
        >>> sizes = '{"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 2}'
        >>> estimator = Estimator(read_job("ijepa", ["--model_config", sizes]))
        >>> alone, sharded = (estimator(Strategy(*how), 4) for how in (("single",), ("fsdp2", 8)))
        >>> sharded.device["optimizer"] * 8 - alone.device["optimizer"] < 8
        True
        >>> estimator.largest_batch(Strategy("single"), alone.total)
        4
    """

    def __init__(self, job: Job):
        self.job = job
        self.traced: dict[int, StepMemory] = {}
        self.sizes: Sizes | None = None

    def __call__(self, strategy: Strategy, samples: int | None = None) -> Estimate:
        """The estimate for a number of samples per process; that of the recipe unless given.

        Raises:
            ValueError: fewer samples than the objective can be computed of.
        """
        samples = samples or self.job.training.per_device_train_batch_size
        if samples < self.job.fewest:
            raise ValueError(f"a batch of {samples} is too small: {self.job.name} needs {self.job.fewest}")
        step = self.step(samples)
        accumulates = self.job.training.gradient_accumulation_steps > 1
        parts = divide(step, self.sizes, strategy, self.autocast is not None, accumulates)
        return Estimate(*parts, samples, step.flops)

    @property
    def autocast(self) -> torch.dtype | None:
        """The 16-bit type in which operations compute."""
        training = self.job.training
        return torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None

    def step(self, samples: int) -> StepMemory:
        """The trace of a batch."""
        if samples not in self.traced:
            model = self.job.model("meta")
            self.sizes = Sizes.of(model)
            inputs = self.job.inputs(model, samples)
            self.traced[samples] = step_memory(model, inputs, self.job.optimizer, self.autocast)
        return self.traced[samples]

    def largest_batch(self, strategy: Strategy, capacity: int) -> int:
        """Most samples per process that fit into so many bytes; 0 if none do.

        A straight line through two batches says where to look, since memory grows along (nearly) straight lines.
        """
        fewest = self.job.fewest
        if self(strategy, fewest).total > capacity:
            return 0
        sizes: Callable[[int], int] = lambda samples: self(strategy, samples).total  # noqa: E731
        fits, fails = fewest, None
        other = max(2 * fewest, self.job.training.per_device_train_batch_size)
        for _ in range(TRIES):
            if fails is not None and fails - fits <= 1:
                break
            if sizes(other) <= capacity:
                fits = max(fits, other)
            else:
                fails = min(fails or other, other)
            (x, y), (x2, y2) = sorted((n, sizes(n)) for n in self.traced)[-2:]
            slope = max((y2 - y) / (x2 - x), 1.0)
            other = max(fits + 1, int(x2 + (capacity - y2) // slope))
            other = min(other, fails - 1) if fails is not None else other
        return fits


__all__ = ["GIB", "Estimate", "Estimator"]
