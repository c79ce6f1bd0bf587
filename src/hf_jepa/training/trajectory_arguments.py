"""The arguments of a run that trains a world model on trajectories."""

from dataclasses import dataclass, field

from hf_jepa.training.run import RunArguments
from hf_jepa.training.scheduled import ScheduleArguments
from hf_jepa.training.schedules import SCHEDULES


@dataclass
class TrajectoryTrainingArguments(ScheduleArguments, RunArguments):
    """`TrainingArguments` with the defaults of V-JEPA 2-AC (2506.09985; the official config, global batch of 256).

    Learning rate: linear warm-up from `start_learning_rate` to `learning_rate`, constant, then a straight line to
    `final_learning_rate` over the last `learning_rate_decay_steps` (warm-up, stable, decay); `learning_rate_schedule:
    cosine` without them is warm-up and cosine (EB-JEPA, LeWM). Weight decay: of matrices, a cosine to
    `final_weight_decay`, which the recipes leave constant.

    Raises:
        ValueError: `clip_apart` without a norm to clip to; see also `ScheduleArguments`.

    Example:
        >>> args = TrajectoryTrainingArguments(output_dir="runs/example", max_steps=10, use_cpu=True)
        >>> args.learning_rate, args.learning_rate_schedule, args.final_weight_decay
        (0.000425, 'linear', 0.04)
    """

    learning_rate: float = field(default=4.25e-4, metadata={"help": "Peak learning rate."})
    start_learning_rate: float = field(default=7.5e-5, metadata={"help": "Learning rate at the start of the warm-up."})
    final_learning_rate: float = field(default=0.0, metadata={"help": "Learning rate at the end."})
    learning_rate_schedule: str = field(
        default="linear", metadata={"help": "Form of its decay, 'cosine' or 'linear'.", "choices": list(SCHEDULES)}
    )
    final_weight_decay: float = field(default=0.04, metadata={"help": "Weight decay at the end."})
    clip_apart: bool = field(
        default=False, metadata={"help": "Clip the gradients of the encoder and of all else apart (EB-JEPA)."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.clip_apart and not self.max_grad_norm > 0:
            raise ValueError(f"clip_apart: max_grad_norm={self.max_grad_norm} clips nothing, say to what")


__all__ = ["TrajectoryTrainingArguments"]
