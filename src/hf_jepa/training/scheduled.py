"""Optimizer and schedules of a pretraining run, as pure functions of its step."""

import math
from dataclasses import dataclass, field, fields

import torch
from transformers import IntervalStrategy, Trainer, TrainerCallback, TrainingArguments

from hf_jepa.training.large_batch import OptimizerArguments
from hf_jepa.training.schedules import SCHEDULES, learning_rate_at, weight_decay_at


# Fields of `TrainingArguments` that choose what a recipe of pretraining fixes.
NOT_USED = ("optim", "optim_args", "lr_scheduler_type", "lr_scheduler_kwargs", "label_smoothing_factor")


@dataclass
class ScheduleArguments(OptimizerArguments):
    """What all runs have that pretrain by schedules, most of which `ScheduleMixin` reads.

    Learning rate: linear warm-up over `warmup_steps` from `start_learning_rate` to `learning_rate`, then a cosine or
    a straight line to `final_learning_rate` (equal to `learning_rate`: constant). Weight decay: cosine from
    `weight_decay` to `final_weight_decay`. Both are pure functions of the step over `schedule_scale * max_steps`
    steps, so a resumed run continues them exactly.

    Raises:
        ValueError: a learning rate that is not positive, a schedule shorter than the run, or a field of
            `TrainingArguments` that would change nothing.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    start_learning_rate: float = field(default=2e-4, metadata={"help": "Learning rate at the start of the warm-up."})
    final_learning_rate: float = field(default=1e-6, metadata={"help": "Learning rate at the end."})
    learning_rate_schedule: str = field(
        default="cosine", metadata={"help": "Form of its decay, 'cosine' or 'linear'.", "choices": list(SCHEDULES)}
    )
    learning_rate_decay_steps: int | None = field(
        default=None, metadata={"help": "Length of the decay, before it constant; default: all after the warm-up."}
    )
    weight_decay: float = field(default=0.04, metadata={"help": "Weight decay at the start."})
    final_weight_decay: float = field(default=0.4, metadata={"help": "Weight decay at the end."})
    schedule_scale: float = field(
        default=1.0, metadata={"help": "Length of the schedules over the length of the run (official: ipe_scale)."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0, as in the recipe, is none."})
    collapse_monitor: bool = field(default=True, metadata={"help": "Watch for collapse and say so in the logs."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop an incomplete last batch."})

    def __post_init__(self):
        defaults = {field.name: field.default for field in fields(TrainingArguments)}
        if unused := [name for name in NOT_USED if getattr(self, name) not in (None, defaults[name])]:
            raise ValueError(
                f"{unused[0]}={getattr(self, unused[0])!r} would change nothing: pretraining has its own optimizers, "
                "schedules and loss, set by optimizer, learning_rate, start_learning_rate, final_learning_rate, "
                "weight_decay, final_weight_decay, adam_* and the config of the model"
            )
        super().__post_init__()
        if self.label_names is None:
            self.label_names = []  # the targets are made by the model
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        if self.schedule_scale < 1.0:
            raise ValueError(f"schedule_scale={self.schedule_scale} would end the schedules before the run: use >= 1")


class ScheduleMixin:
    """A `Trainer` with the optimizer and the schedules of `ScheduleArguments`."""

    def __init__(self, *args, callbacks: list[TrainerCallback] | None = None, **kwargs):
        super().__init__(*args, callbacks=[_WeightDecay(), *(callbacks or [])], **kwargs)

    def create_optimizer(self: Trainer, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            args = self.args
            betas = (args.adam_beta1, args.adam_beta2)
            model = self.model if model is None else model
            settings = (args.learning_rate, args.weight_decay, betas, args.adam_epsilon)
            self.optimizer = args.build_optimizer(model, *settings)
        return self.optimizer

    def create_scheduler(self: Trainer, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None:
            args = self.args
            horizon = int(args.schedule_scale * num_training_steps)
            warmup = args.get_warmup_steps(num_training_steps)
            start, peak, final = args.start_learning_rate, args.learning_rate, args.final_learning_rate
            form = {"schedule": args.learning_rate_schedule, "decay_steps": args.learning_rate_decay_steps}

            def factor(step: int) -> float:
                return learning_rate_at(step, horizon, warmup, start, peak, final, **form) / peak

            optimizer = optimizer or self.optimizer
            constant = [group.get("constant_lr", False) for group in optimizer.param_groups]
            factors = [(lambda step: 1.0) if each else factor for each in constant]
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _logs_this_step(self: Trainer) -> bool:
        """Whether what is measured of this batch is in the next log, which all processes know alike."""
        if not self.model.training or not self.accelerator.sync_gradients:  # not on all batches of one step
            return False
        step = self.state.global_step + 1
        every = max(1, int(self.state.logging_steps or 1))
        if self.args.logging_strategy != IntervalStrategy.STEPS:  # "epoch"; also "no", for the summary
            every = math.ceil(self.state.max_steps / self.state.num_train_epochs)
        return step % every == 0 or step == self.state.max_steps or (step == 1 and self.args.logging_first_step)


class _WeightDecay(TrainerCallback):
    """Sets the weight decay of a step."""

    def on_step_begin(self, args: ScheduleArguments, state, control, optimizer=None, **kwargs):
        horizon = int(args.schedule_scale * state.max_steps)
        decay = weight_decay_at(state.global_step, horizon, args.weight_decay, args.final_weight_decay)
        for group in optimizer.param_groups:
            if group.get("decays", False):
                group["weight_decay"] = decay


__all__ = ["NOT_USED", "ScheduleArguments", "ScheduleMixin"]
