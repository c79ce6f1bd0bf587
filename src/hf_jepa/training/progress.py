"""One line of progress of a run, for programs that tell people rather than log files."""

from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback


class ProgressBar(TrainerCallback):
    """A bar with the title of the run and the latest loss and RankMe, instead of one line per log.

    Pass `disable_tqdm=True` to the arguments of the run, and remove the Trainer's `PrinterCallback`.

    Args:
        title: written before the bar.
        line: of the terminal, where runs go on side by side.

    Example:
        >>> ProgressBar("seed 0").title
        'seed 0'
    """

    def __init__(self, title: str, line: int = 0):
        self.title, self.line = title, line

    def on_train_begin(self, args, state, control, **kwargs: Any):
        self.bar = tqdm(total=state.max_steps, desc=self.title, unit="step", mininterval=1.0, position=self.line)

    def on_step_end(self, args, state, control, **kwargs: Any):
        self.bar.update()

    def on_log(self, args, state, control, logs: dict | None = None, **kwargs: Any):
        self.bar.set_postfix({key: f"{logs[key]:.3g}" for key in ("loss", "rankme") if key in logs}, refresh=False)

    def on_train_end(self, args, state, control, **kwargs: Any):
        self.bar.close()


__all__ = ["ProgressBar"]
