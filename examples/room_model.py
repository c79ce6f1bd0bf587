"""A tiny EB-JEPA of two rooms: its training, and what it knows of the world."""

from pathlib import Path

import numpy as np
import torch
from short_runs import run_trainer, short_run
from torch import nn
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup, set_seed

from hf_jepa import EbJepaConfig, EbJepaForPreTraining, EbJepaModel, HJepaForPreTraining
from hf_jepa.core.world_model import WorldState
from hf_jepa.data.two_rooms import RoomClips, TwoRooms, TwoRoomsCollator
from hf_jepa.data.two_rooms_dynamics import BORDER, Layouts, layouts_from, walk
from hf_jepa.data.two_rooms_pixels import room_pixels
from hf_jepa.evaluation.ridge import ridge_probe
from hf_jepa.training.trajectory import TrajectoryTrainer, TrajectoryTrainingArguments


BATCH = 64
IMAGE_SIZE = 33  # half the resolution of the paper, a quarter of the work
FRAMES = 9  # of a clip: those that are predicted, and the one before
REFINED_FRAMES = 17  # of a clip, when the predictor is trained alone
STRIDE = 8  # steps that are one of the level above
Layout = tuple[int | None, int | None]  # column of the wall and row of the door of all rooms; None for any
ANY: Layout = (None, None)
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


def new_hierarchy(model: EbJepaForPreTraining, seed: int) -> HJepaForPreTraining:
    """One level above a trained model, whose steps are eight of its own."""
    set_seed(seed)
    return HJepaForPreTraining.from_encoder(model, levels=[{"stride": STRIDE}], frames_per_clip=5 * STRIDE + 1)


def train(
    model: EbJepaForPreTraining | HJepaForPreTraining, steps: int, seed: int, folder: Path, layout: Layout = ANY
) -> list[dict]:
    """Train in place with the settings of the paper, but smaller batches; returns the log."""
    args = TrajectoryTrainingArguments(
        **short_run(folder, steps, BATCH, seed),
        learning_rate=1e-3,
        start_learning_rate=0.0,
        final_learning_rate=1e-5,
        learning_rate_schedule="cosine",
        warmup_steps=max(1, steps // 10),
        weight_decay=1e-5,
        final_weight_decay=1e-5,
        max_grad_norm=2.0,
        clip_apart=True,
    )
    trainer = TrajectoryTrainer(
        model,
        args,
        train_dataset=TwoRooms(steps * BATCH, "train", model.config.frames_per_clip, *layout, seed=seed),
        data_collator=TwoRoomsCollator(model.config.image_size),
    )
    return run_trainer(trainer, f"training, {model.config.model_type}")


def refine(
    model: EbJepaForPreTraining, steps: int, seed: int, layout: Layout = ANY, clips: int = 6000, batch: int = 256
) -> list[float]:
    """Train the predictor alone, on latents that are encoded once: a step costs a quarter of one of both.

    The paper trains all together for far longer. Here the encoder stays as it is; the loss is the prediction loss of
    the model, over the longer clips of the paper. Returns the losses.
    """
    world, clips = model.eb_jepa, min(clips, steps * batch)
    data = TwoRooms(clips, "train", REFINED_FRAMES, *layout, seed=seed + 1).batch(range(clips))
    latents, actions = encode(world, data.positions, data).clone(), data.actions
    shared = set(map(id, world.encoder.parameters()))  # its last LayerNorm is the predictor's, too
    weights = [each for each in world.predictor.parameters() if id(each) not in shared]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=1e-5)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 20), steps)
    generator, losses, ahead = torch.Generator().manual_seed(seed), [], REFINED_FRAMES - 1
    for _ in tqdm(range(steps), desc="training, its predictor", unit="step", mininterval=1.0):
        rows = torch.randint(clips, (batch,), generator=generator)
        found = world.predict_autoregressive(latents[rows, :1], actions[rows], ahead)
        loss = nn.functional.mse_loss(found, latents[rows, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 2.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def fit_macro_actions(model: HJepaForPreTraining, seed: int, clips: int = 2000) -> None:
    """Measure which macro-actions the data has."""
    data = TwoRooms(clips, num_frames=model.config.frames_per_clip, seed=seed)
    model.fit_macro_actions([data.batch(range(clips)).actions])


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
        layout: of all rooms, or any.
    """

    def __init__(self, model: EbJepaModel, clips: int = 2000, layout: Layout = ANY):
        self.model, self.rooms = model, layout
        fit, test = (TwoRooms(clips, split, 2, *layout).batch(range(clips)) for split in ("train", "test"))
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
        test = TwoRooms(clips, "test", STEPS_AHEAD[-1] + 1, *self.rooms, seed=1).batch(range(clips))
        start, after = test.positions[:, 0], test.positions[:, 1:]
        free = (start[:, None] + test.actions.cumsum(dim=1)).clamp(*BORDER)
        guesses = {
            "model": self.unrolled(start, test, test.actions),
            "no walls": free,
            "no motion": start[:, None].expand_as(after),
        }
        errors = {name: (guess - after).norm(dim=-1).mean(dim=0) for name, guess in guesses.items()}
        return {name: {n: float(error[n - 1]) for n in STEPS_AHEAD} for name, error in errors.items()}

    def layout(self, clips: int = 1500) -> dict[str, float]:
        """What a linear probe finds of the wall and the door in the latent of a frame: R^2, and errors in pixels."""
        found = []
        for split in ("train", "test"):
            data = TwoRooms(clips, split, num_frames=2, seed=2).batch(range(clips))
            latents = encode(self.model, data.positions[:, :1], data)[:, 0]
            found += [latents, torch.stack([data.wall_x, data.door_y], dim=1).float()]
        probe = ridge_probe(*found)
        wall, door = (probe.predictions - found[-1]).abs().mean(dim=0).tolist()
        return {"r2": probe.r2, "wall": wall, "door": door}

    def walls(self, rooms: int = 200, steps: int = 8) -> dict[str, float]:
        """Shares of dots that the model lets pass, which walk straight at the wall, or straight at the door."""
        rng = np.random.default_rng(0)
        layouts = layouts_from(rng.random((rooms, 2)), *self.rooms)
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
