"""The table at the end of a run."""

from collections.abc import Iterable, Mapping, Sequence
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


def last_logged(history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The last value of everything that was logged, from `state.log_history`.

    Example:
        >>> last_logged([{"loss": 2.0, "rankme": 8.0}, {"loss": 1.0}])
        {'loss': 1.0, 'rankme': 8.0}
    """
    return {name: value for entry in history for name, value in entry.items()}


def first_and_last(history: Sequence[Mapping[str, Any]], names: Iterable[str] = ("loss",)) -> dict[str, Any]:
    """Rows of a summary: how everything of these names began and ended, as far as it was logged.

    What was logged once says nothing of a beginning.

    Example:
        >>> first_and_last([{"loss": 2.0}, {"loss": 1.0}], ["loss", "rankme"])
        {'first loss': 2.0, 'last loss': 1.0}
        >>> first_and_last([{"loss": 2.0}])
        {'last loss': 2.0}
    """
    rows = {}
    for name in names:
        if values := [entry[name] for entry in history if name in entry]:
            rows |= {f"first {name}": values[0]} if len(values) > 1 else {}
            rows |= {f"last {name}": values[-1]}
    return rows


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


__all__ = ["ReportCallback", "first_and_last", "format_table", "last_logged"]
