"""Steps whose loss or gradient is NaN or infinite: left out, counted, and after several in a row the end of a run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from hf_jepa.training.guards import DIVERGED, not_finite
from hf_jepa.training.nonfinite import Record, random_state, report


logger = logging.get_logger(__name__)

SAVED = "nonfinite_steps"  # where the trainer's state keeps them


@dataclass
class FiniteStepArguments:
    """The part of a run's arguments that `FiniteStepMixin` reads."""

    max_nonfinite_steps: int = field(
        default=10,
        metadata={
            "help": "So many steps in a row with a loss or gradient of NaN or infinity end the run; 0: the first."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.max_nonfinite_steps < 0:
            raise ValueError(f"max_nonfinite_steps={self.max_nonfinite_steps} must not be negative")


class FiniteStepMixin:
    """A `Trainer` that leaves out optimizer steps whose loss or gradient norm is NaN or infinite.

    Such a step changes no weights, no state of the optimizer, no target encoder and no statistics of batch
    normalisation; the step number, all schedules and the data go on. Logged losses are means over the other steps.

    All processes decide alike without talking: a loss that is not finite in one of them, or in one accumulated batch,
    is made to give a gradient of NaN, which reaches the others with the gradient. On a GPU nothing waits for the
    decision: the fused optimizers of PyTorch, the average of the target encoder and the logged loss take it as a
    tensor. The count is read one step late, while the next step runs, and at once after a step that was left out (and
    always with `max_nonfinite_steps` of 0 or 1). Optimizers that are not fused (`optimizer: lars`, `sgd`) and those
    of DeepSpeed read the decision on the host at every step.

    Attributes:
        nonfinite_steps: the numbers, from 1, of the steps that were left out; kept in checkpoints.

    Raises:
        FloatingPointError: `max_nonfinite_steps` in a row, a run that ends in more such steps than others, or weights
            that are not finite, to which leaving out steps is no help. In the first and the last case the batches of
            the last step are saved before, see `hf_jepa.training.nonfinite`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._watch = _Watch(self)
        super().__init__(*args, **kwargs)
        self.add_callback(self._watch)

    @property
    def nonfinite_steps(self) -> list[int]:
        return self._watch.steps

    @property
    def nonfinite(self) -> torch.Tensor | None:
        """Of the latest optimizer step: 1.0 where it was left out, else 0.0; on the device, or None where it is fine.

        On a CPU, and under DeepSpeed, the answer is known: a step that is fine needs no care.
        """
        return self._watch.found

    # --- a step -------------------------------------------------------------------------------------------------

    def get_batch_samples(self: Trainer, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._watch.sample_index = [batch["sample_index"] for batch in batches if "sample_index" in batch]
        return batches, items

    def training_step(self: Trainer, model, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        self._watch.inputs.append(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self: Trainer, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.model.training:
            loss = loss * (1 + 0 * loss.detach())  # by 1, or by NaN: an infinite loss can have a finite gradient
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self: Trainer, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._watch.decide(norm)
        return norm

    # --- what people read ---------------------------------------------------------------------------------------

    def log(self: Trainer, logs: dict[str, float], start_time: float | None = None) -> None:
        watch = self._watch
        if "loss" in logs and watch.window:
            watch.read()
            skipped = [step for step in watch.steps if step > self.state.global_step - watch.window]
            if watch.steps:  # what was measured in a step that was left out, or since then, may mean nothing
                broken = [
                    name for name, value in logs.items() if isinstance(value, float) and not math.isfinite(value)
                ]
                for name in {*broken} - {"loss"}:
                    del logs[name]
            if skipped:
                if len(skipped) == watch.window:
                    logs.pop("loss", None)
                elif "loss" in logs:
                    logs["loss"] *= watch.window / (watch.window - len(skipped))
                text = ", ".join(map(str, skipped))
                logs |= {"nonfinite_steps": len(watch.steps), "nonfinite_at": text}
                if self.is_world_process_zero():
                    logger.warning(f"left out, for a loss or gradient of NaN or infinity: step {text}")
            watch.window = 0
        if "train_loss" in logs and watch.steps:
            steps = self.state.global_step - self._initial_global_step
            counted = steps - sum(step > self._initial_global_step for step in watch.steps)
            logs["train_loss"] *= steps / max(1, counted)
        super().log(logs, start_time)

    def nonfinite_summary(self) -> dict[str, str]:
        """A row for summaries and cards; nothing where all steps were fine."""
        if not (steps := self._watch.steps):
            return {}
        shown = ", ".join(map(str, steps[:10])) + (", ..." if len(steps) > 10 else "")
        return {"steps left out": f"{len(steps)} with a loss or gradient of NaN or infinity: {shown}"}


class _Watch(TrainerCallback):
    """What `FiniteStepMixin` knows of the present step and of those before."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.steps: list[int] = []
        self.streak = self.window = 0
        self.found: torch.Tensor | None = None
        self.inputs: list[dict[str, Any]] = []
        self.sample_index: list[Any] = []
        self._unread: list[tuple[int, torch.Tensor, torch.cuda.Event | None]] = []
        self._norms: list[torch.Tensor] = []

    # --- the decision -------------------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, **kwargs):
        self.steps = list(state.stateful_callbacks.get(SAVED, []))
        self.streak, self.window, self.found, self._unread = 0, 0, None, []
        trainer = self.trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        self._norms = [
            buffer
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
            for buffer in module.buffers(recurse=False)
        ]

    def on_step_begin(self, args, state, control, **kwargs):
        """What must be put back where it was: statistics, the sum of losses; and the state of random numbers."""
        self.inputs.clear()
        self._loss = self.trainer._tr_loss.clone()
        self._statistics = [buffer.clone() for buffer in self._norms]
        self._random = random_state(args.device)

    def decide(self, norm: torch.Tensor | float | None) -> None:
        """Before the optimizer's step; after it where DeepSpeed has made it.

        Args:
            norm: of the whole gradient, equal in all processes.
        """
        trainer = self.trainer
        accelerator = trainer.accelerator
        if trainer.is_deepspeed_enabled:
            skipped = accelerator.optimizer_step_was_skipped
            if not skipped and norm is not None and not math.isfinite(norm):
                raise FloatingPointError(
                    f"the gradient norm is {norm} at step {trainer.state.global_step + 1}, but DeepSpeed has not left "
                    f"the step out, which ZeRO of stage 1, 2 or 3 does: take one of them; {DIVERGED}"
                )
            found = torch.tensor(float(skipped), device=trainer.args.device)
        else:
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            found = 1.0 - torch.isfinite(norm).float()
            if accelerator.scaler is None:  # of float16, which does it itself
                leave_out(trainer.optimizer, found)
        self.found = found
        known = trainer.is_deepspeed_enabled or found.device.type == "cpu"
        if known and not found:
            self.found = None
            return
        trainer._tr_loss.copy_(torch.where(found > 0, self._loss, trainer._tr_loss))
        for buffer, before in zip(self._norms, self._statistics, strict=True):
            buffer.copy_(torch.where(found > 0, before, buffer))

    # --- the count ----------------------------------------------------------------------------------------------

    def on_optimizer_step(self, args, state, control, **kwargs):
        """All processes read the same steps at the same time, so that they end together."""
        step = state.global_step + 1
        self.window += 1
        if self.found is None or self.found.device.type == "cpu":
            self._count(step, self.found is not None)
        else:
            latest = torch.empty_like(self.found, device="cpu", pin_memory=True).copy_(self.found, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self.read()  # of the step before
            self._unread.append((step, latest, event))
            if self.streak or args.max_nonfinite_steps <= 1:
                self.read()
        if self.steps and self.steps[-1] == step:
            self._consider(args)

    def read(self) -> None:
        """Wait for the decisions that are still on the device."""
        for step, found, event in self._unread:
            event.synchronize()
            self._count(step, bool(found))
        self._unread.clear()

    def _count(self, step: int, left_out: bool) -> None:
        self.streak = self.streak + 1 if left_out else 0
        if left_out:
            self.steps.append(step)
            self.trainer.state.stateful_callbacks[SAVED] = list(self.steps)  # part of a checkpoint's state

    def _consider(self, args) -> None:
        """After a step that was left out: whether the run has to end."""
        trainer, step = self.trainer, self.steps[-1]
        broken = sorted(set(gather_object(not_finite(trainer.model))))
        if broken:
            self._end(f"{len(broken)} weights are NaN or infinite at step {step}, among them {broken[0]}", False)
        if self.streak >= max(1, args.max_nonfinite_steps):
            self._end(f"the loss or gradient of {self.streak} steps in a row, up to step {step}, is NaN or infinite")

    def _end(self, reason: str, save_weights: bool = True) -> None:
        trainer = self.trainer
        record = Record(
            step=trainer.state.global_step + 1,
            epoch=trainer.state.epoch,
            learning_rate=trainer._get_learning_rate(),
            sample_index=self.sample_index,
            inputs=self.inputs,
            random=self._random,
        )
        raise FloatingPointError(f"{reason}: {DIVERGED}\n{report(trainer, record, save_weights)}")

    # --- what follows a step ------------------------------------------------------------------------------------

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        if trainer.accelerator.optimizer_step_was_skipped:  # by DeepSpeed or float16: then nobody moved the schedule
            scheduler = trainer.lr_scheduler
            getattr(scheduler, "scheduler", scheduler).step()
        if control.should_save:
            self.read()

    def on_train_end(self, args, state, control, **kwargs):
        self.read()
        steps = state.global_step - self.trainer._initial_global_step
        if 2 * self.streak > steps:  # a run too short for `max_nonfinite_steps`
            raise FloatingPointError(
                f"the loss or gradient of the last {self.streak} of {steps} steps is NaN or infinite: {DIVERGED}"
            )


def leave_out(optimizer: torch.optim.Optimizer, found: torch.Tensor) -> None:
    """Make the next step of an optimizer change nothing, neither weights nor its state, where `found` is 1.

    Fused optimizers of PyTorch are told as `torch.amp.GradScaler` tells them, by `found_inf`, which they read on the
    device; from others the gradients are taken away, for which the host has to know.

    Args:
        optimizer: of torch, also one that Accelerate wraps.
        found: 0-dim float tensor, 0.0 or 1.0.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.AdamW([weight])
        >>> weight.grad = torch.full((2,), torch.nan)
        >>> leave_out(optimizer, torch.tensor(1.0))
        >>> optimizer.step()
        >>> weight.tolist()
        [1.0, 1.0]
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if found.device.type != "cpu" and getattr(optimizer, "_step_supports_amp_scaling", False):
        tell(optimizer, found)
    elif found:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def tell(optimizer: torch.optim.Optimizer, found: torch.Tensor) -> None:
    """Tell a fused optimizer; among shards of FSDP2 (DTensors) by one that is whole in every process."""
    first = optimizer.param_groups[0]["params"][0]
    if hasattr(first, "device_mesh"):
        from torch.distributed.tensor import DTensor, Replicate

        found = DTensor.from_local(found, first.device_mesh, [Replicate()] * first.device_mesh.ndim)
    optimizer.found_inf = found


__all__ = ["FiniteStepArguments", "FiniteStepMixin", "leave_out"]
