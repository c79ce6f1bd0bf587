"""Trajectories of noise, and world models and trainers for them, that tests share."""

from pathlib import Path
from typing import Any

import torch
from tiny_training import QUIET

from hf_jepa.data.trajectories import TrajectoryCollator, UndecodableTrajectory
from hf_jepa.registry import VARIANTS
from hf_jepa.training.trajectory import TrajectoryTrainer, TrajectoryTrainingArguments


def make_model(variant: str = "vjepa2_ac", **fields: Any) -> torch.nn.Module:
    """The tiny model of a variant, with weights that are always the same, large enough to matter."""
    torch.manual_seed(0)
    found = VARIANTS[variant]
    spread = {"initializer_range": 0.2} if variant == "vjepa2_ac" else {}
    return found.model_class()(found.config_class()(**(found.tiny | spread | fields)))


def draw(config: Any, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Samples of noise that fit a config."""
    drawn, frames = torch.Generator().manual_seed(seed), config.frames_per_clip
    side = config.image_size
    samples = []
    for number in range(count):
        sample = {"pixel_values_videos": torch.randn(frames, config.num_channels, side, side, generator=drawn)}
        sample["actions"] = 0.3 * torch.randn(frames - 1, config.action_dim, generator=drawn)
        if config.state_dim:
            sample["states"] = torch.rand(frames, config.state_dim, generator=drawn)
        samples.append(sample | {"sample_index": number})
    return samples


def unreadable(config: Any, number: int) -> UndecodableTrajectory:
    """What stands for a trajectory that cannot be read."""
    frames, side = config.frames_per_clip, config.image_size
    others = {"actions": (frames - 1, config.action_dim), "states": (frames, config.state_dim)}
    others = {name: shape for name, shape in others.items() if shape[1]}
    shape = (frames, config.num_channels, side, side)
    return UndecodableTrajectory(number, f"run/{number}", "damaged", shape, others)


def make_trainer(
    output: Path, samples: Any = 16, variant: str = "vjepa2_ac", fields: dict[str, Any] | None = None, **options: Any
) -> TrajectoryTrainer:
    """A trainer of a tiny world model; by gradient descent, which unlike Adam sees the scale of a gradient.

    Args:
        samples: a list, or how many to draw.
        fields: of the config.
        options: arguments of `TrajectoryTrainer` or of `TrajectoryTrainingArguments`.
    """
    own = {name: options.pop(name) for name in ("model", "eval_dataset", "callbacks") if name in options}
    defaults = {
        "output_dir": str(output),
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "logging_steps": 1,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "start_learning_rate": 0.1,
        "final_learning_rate": 0.1,
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "final_weight_decay": 0.0,
        **QUIET,
    }
    model = own.pop("model", None) or make_model(variant, **(fields or {}))
    return TrajectoryTrainer(
        model,
        TrajectoryTrainingArguments(**(defaults | options)),
        train_dataset=draw(model.config, samples) if isinstance(samples, int) else samples,
        data_collator=TrajectoryCollator(),
        **own,
    )
