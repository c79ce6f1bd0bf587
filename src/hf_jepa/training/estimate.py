"""How much memory a run takes per GPU, before it is started."""

from bisect import bisect_left
from dataclasses import dataclass

import torch

from hf_jepa.training.estimate_recipes import Job
from hf_jepa.training.estimate_step import StepMemory, between, step_memory
from hf_jepa.training.estimate_strategies import Sizes, Strategy, divide


GIB = 2**30
MOST = 2**20  # samples that a batch is looked for up to


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
        >>> sizes = '{"hidden_size": 48, "num_hidden_layers": 1, "pred_num_hidden_layers": 1}'
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
        return Estimate(*self._divide(step, strategy), samples, step.flops)

    def _divide(self, step: StepMemory, strategy: Strategy) -> tuple[dict[str, int], dict[str, int]]:
        accumulates = self.job.training.gradient_accumulation_steps > 1
        return divide(step, self.sizes, strategy, accumulates)

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
        """Most samples per process that fit into so many bytes, 0 if none do, by lines through two batches."""
        first = max(self.job.fewest, self.job.training.per_device_train_batch_size)
        most = self._largest_between(first, 2 * first, strategy, capacity)
        if most > 2 * first:  # far away: once more, from nearer
            most = self._largest_between(2 * first, most, strategy, capacity)
        return most if most >= self.job.fewest else 0

    def _largest_between(self, first: int, second: int, strategy: Strategy, capacity: int) -> int:
        lines = [(samples, self.step(samples)) for samples in (first, second)]

        def fails(samples: int) -> bool:
            device, _ = self._divide(between(*lines, samples), strategy)
            return sum(device.values()) > capacity

        return bisect_left(range(MOST), True, 1, key=fails) - 1


__all__ = ["GIB", "Estimate", "Estimator"]
