"""The arguments of a pretraining run: those of transformers' `Trainer` plus the schedules of a JEPA."""

from dataclasses import dataclass, field

from hf_jepa.training.run import RunArguments
from hf_jepa.training.scheduled import ScheduleArguments


@dataclass
class JepaTrainingArguments(ScheduleArguments, RunArguments):
    """`TrainingArguments` with the defaults of the official I-JEPA recipe (for a global batch of 2048).

    Learning rate and weight decay as in `ScheduleArguments`. Momentum: linear, a pure function of the step, too.

    Example:
        >>> args = JepaTrainingArguments(output_dir="runs/example", max_steps=10, use_cpu=True)
        >>> args.start_momentum, args.final_weight_decay
        (0.996, 0.4)
    """

    start_momentum: float = field(default=0.996, metadata={"help": "Momentum of the target encoder at the start."})
    final_momentum: float = field(default=1.0, metadata={"help": "Momentum of the target encoder at the end."})
    context_loss_start_step: int = field(
        default=0, metadata={"help": "Last step without the loss on visible tokens (V-JEPA 2.1)."}
    )
    context_loss_end_step: int = field(
        default=0, metadata={"help": "Step from which on that loss has its full weight; 0: always."}
    )
    clip_after_warmup: bool = field(
        default=False,
        metadata={"help": "Clip context encoder and predictor apart, and only after the warm-up (V-JEPA)."},
    )

    def __post_init__(self):
        if self.batch_eval_metrics or not self.eval_do_concat_batches:
            raise ValueError(
                "evaluation measures the loss over all batches: leave out batch_eval_metrics and "
                "eval_do_concat_batches"
            )
        super().__post_init__()
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


__all__ = ["JepaTrainingArguments"]
