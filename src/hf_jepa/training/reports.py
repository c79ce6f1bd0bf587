"""The table at the end of a run."""

from typing import Any

from transformers import Trainer, TrainerCallback


def format_table(rows: dict[str, Any]) -> str:
    """Two aligned columns.

    Example:
        >>> print(format_table({"steps": 20, "last loss": 0.12345}))
        steps      20
        last loss  0.1235
    """
    width = max(len(name) for name in rows)
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in rows.items()}
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())


class ReportCallback(TrainerCallback):
    """Prints the `summary` of a trainer after training, once all processes know what the others left out.

    Args:
        trainer: with `summary()`, and `gather_skipped()` where samples may be left out.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_end(self, args, state, control, **kwargs):
        if hasattr(self.trainer, "gather_skipped"):
            self.trainer.gather_skipped()
        if state.is_world_process_zero:
            print("\n" + format_table(self.trainer.summary()))


__all__ = ["ReportCallback", "format_table"]
