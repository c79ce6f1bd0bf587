"""What every training run of the package has, whatever it trains: its arguments and its trainer."""

from dataclasses import dataclass, field

from transformers import Trainer, TrainingArguments

from hf_jepa.training.checkpoints import CheckpointMixin
from hf_jepa.training.engines import EngineArguments, EngineMixin
from hf_jepa.training.finite_steps import FiniteStepArguments, FiniteStepMixin
from hf_jepa.training.guards import GuardMixin
from hf_jepa.training.kernels import KernelArguments, KernelMixin
from hf_jepa.training.out_of_memory import OutOfMemoryMixin
from hf_jepa.training.preemption import PreemptionMixin
from hf_jepa.training.run_cards import RunCardMixin
from hf_jepa.training.shards import ShardOrderMixin
from hf_jepa.training.throughput import ThroughputArguments, ThroughputMixin
from hf_jepa.training.watchdog import WatchdogArguments, WatchdogMixin


@dataclass
class RunArguments(
    EngineArguments, FiniteStepArguments, WatchdogArguments, KernelArguments, ThroughputArguments, TrainingArguments
):
    """`TrainingArguments` of all programs of the package.

    Example:
        >>> RunArguments(output_dir="runs/example", use_cpu=True).remove_unused_columns
        False
    """

    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator and the masks need them all."})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to go on from; 'true': the last complete one in output_dir; 'auto': the same, or a "
            "fresh start where there is none."
        },
    )
    # The filter reads the loss on the host at every step, and would show a loss of NaN as 0.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Keep NaN losses out of the logs."})

    def __getstate__(self) -> dict:
        """What is pickled: `training_args.bin`, which lies beside the weights and is uploaded, holds no token."""
        return self.__dict__ | {"hub_token": None}


# Guards look at what preemption wants saved; checkpoints catch a full disk wherever in saving it shows.
class RunTrainer(
    ThroughputMixin,
    WatchdogMixin,
    OutOfMemoryMixin,
    FiniteStepMixin,
    GuardMixin,
    CheckpointMixin,
    PreemptionMixin,
    RunCardMixin,
    KernelMixin,
    EngineMixin,
    ShardOrderMixin,
    Trainer,
):
    """transformers' `Trainer` with what all runs share; `JepaTrainer` and the others add what they train.

    Each part is a mixin of its own, which says what it does.
    """


__all__ = ["RunArguments", "RunTrainer"]
