"""Does a tiny EB-JEPA that only watched moving digits know where they will be?

    python examples/eb_jepa_video.py --output-dir runs/eb_jepa_video

Needs no download. The video model of EB-JEPA, a ResNet and a U-Net that predict the map of the next frame from those
of two, learns from endless clips at half the resolution. A small head then learns, from maps of real frames alone, in
which cells of an 8 x 8 grid a digit is, and reads this off predicted maps, too: average precision after 1, 2, ...
steps. Beside it stand the maps of the frames themselves, which no prediction can beat, and those of the last frame
that was seen, which is what a model that predicts no motion would say.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from short_runs import run_trainer, short_run
from sklearn.metrics import average_precision_score
from torch import nn
from tqdm.auto import tqdm
from transformers import set_seed

from hf_jepa import EbJepaConfig, EbJepaForPreTraining, EbJepaModel
from hf_jepa.cli.tables import table
from hf_jepa.data.moving_digits import CANVAS, GLYPH, DigitClips, MovingDigits
from hf_jepa.data.trajectories import TrajectoryCollator
from hf_jepa.training.kept import write_text
from hf_jepa.training.trajectory import TrajectoryTrainer, TrajectoryTrainingArguments
from hf_jepa.visualization.curves import draw_training_curves
from hf_jepa.visualization.figures import new_figure, save_figure


SIDE, FRAMES, GRID = 32, 10, 8
SEEN = 2  # frames that the predictor reads
CURVES = {"loss": ["loss"], "terms": ["prediction_loss", "regularization_loss"], "RankMe": ["rankme"]}
ROWS = ("frames themselves", "predicted", "last frame seen")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/eb_jepa_video"), help="where all is written")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=8, help="clips of a step")
    parser.add_argument("--width", type=int, default=8, help="channels of the networks at full size")
    parser.add_argument("--clips", type=int, default=256, help="to fit the head on; half as many test it")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data")
    return parser.parse_args(argv)


def halved(pixels: torch.Tensor) -> torch.Tensor:
    """(B, T, C, 64, 64) -> (B, T, C, 32, 32)"""
    return nn.functional.avg_pool2d(pixels.flatten(0, 1), CANVAS // SIDE).unflatten(0, pixels.shape[:2])


class HalvedCollator(TrajectoryCollator):
    """Batches of clips at half the resolution."""

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        batch = super().__call__(samples)
        return batch | {"pixel_values_videos": halved(batch["pixel_values_videos"])}


def new_model(width: int, seed: int) -> EbJepaForPreTraining:
    """The published model with narrower networks, for smaller frames; the objective is the published one."""
    set_seed(seed)
    config = EbJepaConfig.from_size(
        "moving_mnist",
        image_size=SIDE,
        encoder_hidden_sizes=[width, width, 2 * width],
        hidden_size=width,
        pred_hidden_size=width,
        proj_sizes=[4 * width, 4 * width],
    )
    return EbJepaForPreTraining(config)


def train(model: EbJepaForPreTraining, args: argparse.Namespace, folder: Path) -> list[dict]:
    """Train in place; returns the log."""
    training = TrajectoryTrainingArguments(
        **short_run(folder, args.steps, args.batch_size, args.seed),
        learning_rate=2e-3,
        start_learning_rate=2e-3,
        final_learning_rate=1e-4,
        learning_rate_schedule="cosine",
        weight_decay=0.0,
        final_weight_decay=0.0,
    )
    clips = MovingDigits(args.steps * args.batch_size, num_frames=FRAMES, channels=1, seed=args.seed)
    trainer = TrajectoryTrainer(model, training, train_dataset=clips, data_collator=HalvedCollator())
    return run_trainer(trainer, "training")


def cells(clips: DigitClips) -> torch.Tensor:
    """In which cells of the grid the centre of a digit is: 0 or 1, (B, T, 8, 8)."""
    centre = ((clips.position + GLYPH / 2) * (GRID / CANVAS)).long()  # (B, T, digits, row and column)
    found = torch.zeros(*centre.shape[:2], GRID * GRID)
    return found.scatter_(2, centre[..., 0] * GRID + centre[..., 1], 1.0).unflatten(2, (GRID, GRID))


class DetectionHead(nn.Sequential):
    """Where digits are: a map of logits (R, 8, 8) from latents (R, D, H, W)."""

    def __init__(self, width: int):
        conv = nn.Conv2d(width, 32, 3, padding=1)
        super().__init__(nn.AdaptiveAvgPool2d(GRID), conv, nn.ReLU(), nn.Conv2d(32, 1, 3, padding=1), nn.Flatten(0, 1))


@torch.inference_mode()
def maps(model: EbJepaModel, clips: DigitClips) -> dict[str, torch.Tensor]:
    """Latents (B, T - 2, D, H, W) of the frames after the first two: their own, predicted, those of the last seen."""
    parts = []
    for pixels in halved(clips.pixel_values_videos).split(32):
        state = model.encode(pixels)
        seen = model.encode(pixels[:, :SEEN])
        none = torch.zeros(len(pixels), 1, FRAMES - SEEN, 0)
        last = seen.latents[:, -1:].expand(-1, FRAMES - SEEN, -1, -1, -1)
        parts.append((state.latents[:, SEEN:], model.unroll(seen, none)[:, 0], last))
    return {name: torch.cat(each) for name, each in zip(ROWS, zip(*parts, strict=True), strict=True)}


def fit_head(latents: torch.Tensor, wanted: torch.Tensor, steps: int = 300, seed: int = 0) -> DetectionHead:
    """A head for latents (B, T, D, H, W) of frames, in which digits are in the cells (B, T, 8, 8)."""
    set_seed(seed)
    head = DetectionHead(latents.shape[2])
    pooled = nn.functional.adaptive_avg_pool2d(latents.flatten(0, 1), GRID)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in tqdm(range(steps), desc="head", unit="step"):
        chosen = torch.randint(len(pooled), (128,))
        loss = nn.functional.binary_cross_entropy_with_logits(head(pooled[chosen]), wanted.flatten(0, 1)[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


@torch.inference_mode()
def detected(head: DetectionHead, latents: torch.Tensor) -> torch.Tensor:
    """Probabilities (B, T, 8, 8)."""
    return head(latents.flatten(0, 1)).sigmoid().unflatten(0, latents.shape[:2])


def precision(found: torch.Tensor, wanted: torch.Tensor) -> list[float]:
    """Average precision of the cells after each number of steps, over all clips."""
    pairs = zip(wanted.unbind(1), found.unbind(1), strict=True)
    return [float(average_precision_score(truth.flatten().int(), guess.flatten())) for truth, guess in pairs]


def draw(clips: DigitClips, found: dict[str, torch.Tensor], wanted: torch.Tensor, path: Path, shown: int = 0) -> None:
    """A clip, where its digits are, and where the head sees them in every kind of map."""
    rows = {"frames": clips.pixel_values_videos[shown, SEEN:, 0], "cells": wanted[shown, SEEN:]}
    rows |= {name: probabilities[shown] for name, probabilities in found.items()}
    figure = new_figure(1.1 * (FRAMES - SEEN) + 1, 1.2 * len(rows))
    for axes, (name, pictures) in zip(figure.subplots(len(rows), FRAMES - SEEN), rows.items(), strict=True):
        limits = {} if name == "frames" else {"vmin": 0.0, "vmax": 1.0}
        for step, (axis, picture) in enumerate(zip(axes, np.asarray(pictures), strict=True), start=1):
            axis.imshow(picture, cmap="gray" if name == "frames" else "viridis", **limits)
            axis.set(xticks=[], yticks=[], title=f"{step} ahead" if name == "frames" else "")
        axes[0].set_ylabel(name.replace(" ", "\n"), fontsize=8)
    save_figure(figure, path)


def run(args: argparse.Namespace) -> dict:
    """The experiment; writes the model, pictures and results.json to the folder, and returns the results."""
    start, folder = time.perf_counter(), args.output_dir
    fit, test = (
        MovingDigits(count, split, FRAMES, channels=1, seed=1000).batch(range(count))
        for split, count in (("train", args.clips), ("test", args.clips // 2))
    )
    model, scores = new_model(args.width, args.seed), {}
    for name in ("untrained", "trained"):
        if name == "trained":
            log = train(model, args, folder / "model")
        world = model.eval().eb_jepa
        head = fit_head(maps(world, fit)[ROWS[0]], cells(fit)[:, SEEN:])
        found = {row: detected(head, latents) for row, latents in maps(world, test).items()}
        scores[name] = {row: precision(each, cells(test)[:, SEEN:]) for row, each in found.items()}
    model.save_pretrained(folder / "model")
    draw_training_curves(log, CURVES, folder / "training.png")
    draw(test, found, cells(test), folder / "digits.png")
    results = {"steps": args.steps, "average_precision": scores, "chance": cells(test)[:, SEEN:].mean().item()}
    results["seconds"] = round(time.perf_counter() - start, 1)
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def report(results: dict) -> str:
    """The table."""
    lines = [
        [f"{row} ({name})", *(f"{value:.2f}" for value in values), f"{np.mean(values):.3f}"]
        for name, found in results["average_precision"].items()
        for row, values in found.items()
    ]
    header = ["average precision, maps of", *(f"{step}" for step in range(1, FRAMES - SEEN + 1)), "mean"]
    return f"{table(header, lines)}\n\nchance {results['chance']:.3f}; {results['seconds']} seconds"


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    print("\n" + report(run(args)))
    print(f"results.json, model/ and pictures (digits, training) are in {args.output_dir}")


if __name__ == "__main__":
    main()
