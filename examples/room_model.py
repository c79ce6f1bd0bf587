"""A tiny EB-JEPA of two rooms: its training, and what it knows of the world."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PrinterCallback, set_seed

from hf_jepa import EbJepaConfig, EbJepaForPreTraining, EbJepaModel
from hf_jepa.core.world_model import WorldState
from hf_jepa.data.two_rooms import RoomClips, TwoRooms, TwoRoomsCollator
from hf_jepa.data.two_rooms_dynamics import BORDER, Layouts, walk
from hf_jepa.data.two_rooms_pixels import room_pixels
from hf_jepa.evaluation.ridge import ridge_probe
from hf_jepa.training.progress import ProgressBar
from hf_jepa.training.trajectory import TrajectoryTrainer, TrajectoryTrainingArguments


BATCH = 64
IMAGE_SIZE = 33  # half the resolution of the paper, a quarter of the work
FRAMES = 9  # of a clip: those that are predicted, and the one before
STEPS_AHEAD = (1, 8, 16, 32, 48)  # of which the error is measured


def new_model(width: int, seed: int) -> EbJepaForPreTraining:
    """The model of the paper with fewer and narrower layers, for smaller frames; the objective is the paper's."""
    set_seed(seed)
    config = EbJepaConfig(
        image_size=IMAGE_SIZE,
        frames_per_clip=FRAMES,
        hidden_size=width,
        encoder_hidden_sizes=[8, 16, 16],
        encoder_num_blocks=1,
        num_unroll_steps=FRAMES - 1,
    )
    return EbJepaForPreTraining(config)


def train(model: EbJepaForPreTraining, steps: int, seed: int, folder: Path) -> list[dict]:
    """Train in place with the settings of the paper, but smaller batches; returns the log."""
    args = TrajectoryTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        start_learning_rate=0.0,
        final_learning_rate=1e-5,
        learning_rate_schedule="cosine",
        warmup_steps=max(1, steps // 10),
        weight_decay=1e-5,
        final_weight_decay=1e-5,
        max_grad_norm=2.0,
        clip_apart=True,
        logging_steps=max(1, steps // 40),
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        seed=seed,
        disable_tqdm=True,  # for the bar below
        dataloader_pin_memory=False,
    )
    trainer = TrajectoryTrainer(
        model,
        args,
        train_dataset=TwoRooms(steps * BATCH, num_frames=FRAMES, seed=seed),
        data_collator=TwoRoomsCollator(IMAGE_SIZE),
        callbacks=[ProgressBar("training")],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()
    return trainer.state.log_history


@torch.inference_mode()
def encode(model: EbJepaModel, positions: torch.Tensor, layouts: Layouts | RoomClips) -> torch.Tensor:
    """Latents (N, T, D) of dots at positions (N, T, 2)."""
    walls = [torch.as_tensor(each) for each in (layouts.wall_x, layouts.door_y)]
    parts = zip(positions.split(256), *(each.split(256) for each in walls), strict=True)
    return torch.cat([model.encode(room_pixels(*part, model.config.image_size)).latents for part in parts])


class Knowledge:
    """What linear probes find of the position of the dot in latents: of frames, and of predictions of many steps.

    Args:
        model: after its training.
        clips: to fit the probe on; as many others test it.
    """

    def __init__(self, model: EbJepaModel, clips: int = 2000):
        self.model = model
        fit, test = (TwoRooms(clips, split, num_frames=2, seed=0).batch(range(clips)) for split in ("train", "test"))
        latents = [encode(model, each.positions, each).flatten(0, 1) for each in (fit, test)]
        wanted = [each.positions.flatten(0, 1) for each in (fit, test)]
        found = ridge_probe(latents[0], wanted[0], latents[1], wanted[1])
        self.fit = (latents[0], wanted[0])
        self.r2 = found.r2
        self.error = (found.predictions - wanted[1]).norm(dim=-1).mean().item()

    def positions(self, latents: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., 2), in pixels."""
        return ridge_probe(*self.fit, latents.flatten(0, -2)).predictions.unflatten(0, latents.shape[:-1])

    @torch.inference_mode()
    def unrolled(self, start: torch.Tensor, layouts: Layouts | RoomClips, actions: torch.Tensor) -> torch.Tensor:
        """Where the model thinks that actions (N, S, 2) lead from starts (N, 2): (N, S, 2)."""
        state = WorldState(encode(self.model, start[:, None], layouts))
        return self.positions(self.model.unroll(state, actions[:, None])[:, 0])

    def ahead(self, clips: int = 500) -> dict[str, dict[int, float]]:
        """Mean error in pixels after steps of the data: of the model, of a world without walls, of standing."""
        test = TwoRooms(clips, "test", num_frames=STEPS_AHEAD[-1] + 1, seed=1).batch(range(clips))
        start, after = test.positions[:, 0], test.positions[:, 1:]
        free = (start[:, None] + test.actions.cumsum(dim=1)).clamp(*BORDER)
        guesses = {
            "model": self.unrolled(start, test, test.actions),
            "no walls": free,
            "no motion": start[:, None].expand_as(after),
        }
        errors = {name: (guess - after).norm(dim=-1).mean(dim=0) for name, guess in guesses.items()}
        return {name: {n: float(error[n - 1]) for n in STEPS_AHEAD} for name, error in errors.items()}

    def walls(self, rooms: int = 200, steps: int = 8) -> dict[str, float]:
        """Shares of dots that the model lets pass, which walk straight at the wall, or straight at the door."""
        rng = np.random.default_rng(0)
        layouts = Layouts(rng.integers(20, 45, rooms), rng.integers(10, 55, rooms))
        side = rng.choice([-1, 1], rooms)
        away = np.where(layouts.door_y < 32, 1, -1) * rng.uniform(8, 14, rooms)
        actions = np.zeros((rooms, steps, 2))
        actions[..., 0] = side[:, None]
        passed = {}
        for name, y in (("wall", layouts.door_y + away), ("door", layouts.door_y.astype(float))):
            start = np.stack([layouts.wall_x - 4.0 * side, y], axis=1)
            truth = walk(start, actions, layouts)[:, -1]
            guess = self.unrolled(*(torch.from_numpy(start).float(), layouts, torch.from_numpy(actions).float()))
            for who, end in ((name, guess[:, -1].numpy()), (f"{name}, in truth", truth)):
                passed[who] = float(((end[:, 0] - layouts.wall_x) * side > 0).mean())
        return passed


def trained_values(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
