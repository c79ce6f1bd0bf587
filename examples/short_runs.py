"""Short runs: one bar of progress, nothing reported, nothing saved on the way."""

from pathlib import Path
from typing import Any

from transformers import PrinterCallback, Trainer

from hf_jepa.training.progress import ProgressBar


def short_run(folder: Path, steps: int, batch_size: int, seed: int) -> dict[str, Any]:
    """What the arguments of the trainers have in common."""
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "seed": seed,
        "logging_steps": max(1, steps // 40),
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,  # for the bar of `run_trainer`
    }


def run_trainer(trainer: Trainer, title: str) -> list[dict]:
    """Train the model in place; returns the log."""
    trainer.add_callback(ProgressBar(title))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.model.eval()
    return trainer.state.log_history
