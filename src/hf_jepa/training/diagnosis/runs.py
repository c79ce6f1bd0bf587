"""What the folder of a run says: its log, its settings and the config of its model."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from hf_jepa.training.run_cards import SETTINGS_FILE


@dataclass(frozen=True)
class Run:
    """A run as far as it has come.

    Args:
        log: the entries of the training log that have a loss, with "step".
        steps: optimizer steps done.
        max_steps: steps it was started for.
        config: of the model, as in `config.json`.
        settings: as in `run.json`, see `RunCardMixin.run_settings`; empty where nothing is known.

    Example:
        >>> run = Run(log=[{"step": 1, "loss": 0.5}, {"step": 9, "loss": 0.1}], steps=9, max_steps=9)
        >>> run.first("loss"), run.now("loss"), run.first("rankme")
        (0.5, 0.1, None)
    """

    log: list[dict[str, Any]]
    steps: int
    max_steps: int
    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def values(self, name: str) -> list[float]:
        """Of a signal, in the order of the log."""
        return [entry[name] for entry in self.log if name in entry]

    def first(self, name: str) -> float | None:
        """Of a signal, where it was first logged; None where it never was."""
        return next(iter(self.values(name)), None)

    def now(self, name: str) -> float | None:
        """The median of a signal over the last quarter of the log; None where it was never logged."""
        values = self.values(name)
        return median(values[-max(1, len(values) // 4) :]) if values else None

    def argument(self, name: str) -> Any:
        """A training argument; None where the settings are not known."""
        return self.settings.get("arguments", {}).get(name)

    def parameters(self, part: str) -> int | None:
        """Of a part of the model; None where the settings are not known."""
        return self.settings.get("model", {}).get("parameters", {}).get(part)


def read_run(folder: str | Path) -> Run:
    """Read the output folder of a run, finished or not, or one of its checkpoints.

    The log is the longest there is: that of the end of the run, or of its last checkpoint.

    Raises:
        FileNotFoundError: no such folder, or no log in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    last = get_last_checkpoint(str(folder))
    states = {place: _read("trainer_state.json", [place]) for place in (folder, Path(last or folder))}
    states = {place: state for place, state in states.items() if state is not None}
    if not states:
        raise FileNotFoundError(
            f"{folder} has no trainer_state.json and no checkpoint-* with one: a run leaves it where it saves. Name "
            "its output_dir, and set save_steps so that it saves"
        )
    place = max(states, key=lambda place: states[place]["global_step"])
    return _run(states[place], *(_read(name, [place, folder]) for name in ("config.json", SETTINGS_FILE)))


def run_of(trainer: Trainer) -> Run:
    """The run of a `JepaTrainer` in this process.

    Example: `diagnose(run_of(trainer)).verdict` after `trainer.train()`.
    """
    return _run(vars(trainer.state), trainer.model.config.to_dict(), trainer.run_settings())


def _run(state: dict[str, Any], config: dict | None, settings: dict | None) -> Run:
    log = [entry for entry in state["log_history"] if "loss" in entry and "step" in entry]
    return Run(log, state["global_step"], state["max_steps"], config or {}, settings or {})


def _read(name: str, places: list[Path]) -> dict[str, Any] | None:
    for place in places:
        if (place / name).is_file():
            return json.loads((place / name).read_text(encoding="utf-8"))
    return None


__all__ = ["Run", "read_run", "run_of"]
