"""The arguments of a pretraining run: those of transformers' `Trainer` plus the schedules of a JEPA."""

from dataclasses import dataclass, field, fields

from transformers import TrainingArguments

from hf_jepa.training.large_batch import OptimizerArguments
from hf_jepa.training.run import RunArguments
from hf_jepa.training.schedules import SCHEDULES


# Fields of `TrainingArguments` that choose what a JEPA recipe fixes.
NOT_USED = ("optim", "optim_args", "lr_scheduler_type", "lr_scheduler_kwargs", "label_smoothing_factor")


@dataclass
class JepaTrainingArguments(OptimizerArguments, RunArguments):
    """`TrainingArguments` with the defaults of the official I-JEPA recipe (for a global batch of 2048).

    Learning rate: linear warm-up over `warmup_steps` from `start_learning_rate` to `learning_rate`, then a cosine or
    a straight line to `final_learning_rate` (equal to `learning_rate`: constant). Weight decay: cosine from
    `weight_decay` to `final_weight_decay`. Momentum: linear. All are pure functions of the step over
    `schedule_scale * max_steps` steps, so a resumed run continues them exactly.

    Example:
        >>> args = JepaTrainingArguments(output_dir="runs/example", max_steps=10, use_cpu=True)
        >>> args.start_momentum, args.final_weight_decay
        (0.996, 0.4)
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
    start_momentum: float = field(default=0.996, metadata={"help": "Momentum of the target encoder at the start."})
    final_momentum: float = field(default=1.0, metadata={"help": "Momentum of the target encoder at the end."})
    context_loss_start_step: int = field(
        default=0, metadata={"help": "Last step without the loss on visible tokens (V-JEPA 2.1)."}
    )
    context_loss_end_step: int = field(
        default=0, metadata={"help": "Step from which on that loss has its full weight; 0: always."}
    )
    schedule_scale: float = field(
        default=1.0, metadata={"help": "Length of the schedules over the length of the run (official: ipe_scale)."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0, as in the recipe, is none."})
    clip_after_warmup: bool = field(
        default=False,
        metadata={"help": "Clip context encoder and predictor apart, and only after the warm-up (V-JEPA)."},
    )
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
        if self.batch_eval_metrics or not self.eval_do_concat_batches:
            raise ValueError(
                "evaluation measures the loss over all batches: leave out batch_eval_metrics and "
                "eval_do_concat_batches"
            )
        super().__post_init__()
        if self.label_names is None:
            self.label_names = []  # the targets are made by the model
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        for name in ("start_momentum", "final_momentum"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is outside [0, 1]")
        if not 0 <= self.context_loss_start_step <= self.context_loss_end_step:
            raise ValueError(
                f"the context loss cannot grow from step context_loss_start_step={self.context_loss_start_step} to "
                f"context_loss_end_step={self.context_loss_end_step}"
            )
        if self.clip_after_warmup and not self.max_grad_norm > 0:
            raise ValueError(f"clip_after_warmup: max_grad_norm={self.max_grad_norm} clips nothing, say to what")
        if self.schedule_scale < 1.0:
            raise ValueError(f"schedule_scale={self.schedule_scale} would end the schedules before the run: use >= 1")


__all__ = ["JepaTrainingArguments"]
