"""What linear probes find out about the two digits of a clip, and how much it surprises when one of them jumps."""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import one_hot

from hf_jepa import VJepa2Model
from hf_jepa.data.moving_digits import DigitClips, MovingDigits
from hf_jepa.evaluation.ridge import ridge_probe
from hf_jepa.evaluation.surprise import surprise_curves
from hf_jepa.visualization.video import draw_surprise_curves, draw_surprise_strip


NUM_FRAMES, JUMP_FRAME = 16, 12
MOMENTS = (3, 6)  # of the eight pairs of frames of a clip, those whose velocity and position are probed


def draw_clips(split: str, count: int, seed: int, jump_frame: int | None = None) -> DigitClips:
    return MovingDigits(count, split, NUM_FRAMES, jump_frame=jump_frame, seed=seed).batch(range(count))


@torch.inference_mode()
def describe(encoder: VJepa2Model | None, clips: DigitClips) -> dict[str, torch.Tensor]:
    """What the probe of each question reads: of whole clips for the digits, of pairs of frames for the others.

    Without an encoder all pixels. With one, mean and standard deviation over the tokens, and for the position, which
    these do not tell, all tokens of the pair of frames.
    """
    if encoder is None:
        pairs = clips.pixel_values_videos[:, :, 0].unflatten(1, (-1, 2)).flatten(2)  # (B, 8, 2 * 64 * 64)
        moments = pairs[:, MOMENTS].flatten(0, 1)
        return {"digits": pairs.flatten(1), "velocity": moments, "position": moments}
    grid = torch.cat([encoder.get_video_features(part).grid for part in clips.pixel_values_videos.split(64)])
    std, average = torch.std_mean(grid.flatten(2, 3), dim=2, correction=0)
    pooled = torch.cat([average, std], dim=-1)  # (B, 8, 2 D)
    moments = grid[:, MOMENTS].flatten(2).flatten(0, 1)
    return {"digits": pooled.mean(dim=1), "velocity": pooled[:, MOMENTS].flatten(0, 1), "position": moments}


def wanted(clips: DigitClips) -> dict[str, torch.Tensor]:
    """The numbers behind the questions: how often each digit occurs, the mean velocity, and where each digit is."""
    by_moment = (values.unflatten(1, (-1, 2)).mean(dim=2)[:, MOMENTS] for values in (clips.velocity, clips.position))
    velocity, position = (values.flatten(0, 1) for values in by_moment)  # (B * moments, 2 digits, 2)
    counts = one_hot(clips.digits, 10).sum(dim=1).float()
    return {"digits": counts, "velocity": velocity.mean(dim=1), "position": position.flatten(1)}


def digits_found(predictions: torch.Tensor, counts: torch.Tensor) -> float:
    """Share of the digits of clips that are among the two highest predictions (B, 10), from their counts (B, 10)."""
    return counts.gather(1, predictions.topk(2).indices).sum().item() / counts.sum().item()


def probe(encoder: VJepa2Model | None, train: DigitClips, test: DigitClips) -> dict[str, float]:
    """R^2 of velocity and position; of the digits the share that is among the two guesses per clip."""
    train_x, test_x, train_y, test_y = describe(encoder, train), describe(encoder, test), wanted(train), wanted(test)
    digits = ridge_probe(train_x["digits"], train_y["digits"], test_x["digits"], score=digits_found)
    found = {"digits": digits_found(digits.predictions, test_y["digits"])}
    for name in ("velocity", "position"):
        found[name] = ridge_probe(train_x[name], train_y[name], test_x[name], test_y[name]).r2
    return found


def measure_surprise(model: VJepa2Model, folder: Path) -> dict:
    """Curves of clips with a jump beside the same clips without; both pictures."""
    clips = {name: draw_clips("test", 128, 7, frame) for name, frame in (("without", None), ("with", JUMP_FRAME))}
    curves = {f"{name} a jump": surprise_curves(model, c.pixel_values_videos) for name, c in clips.items()}
    plain, jumps = curves.values()
    errors, title = {name: c.error for name, c in curves.items()}, f"a digit jumps at frame {JUMP_FRAME}"
    draw_surprise_curves(errors, plain.frame, folder / "surprise.png", event_frame=JUMP_FRAME, title=title)
    gain = jumps.error - plain.error  # (clips, pairs of frames): the clips are the same until the jump
    shown = int(gain[:, JUMP_FRAME // 2 - 1].argsort()[len(gain) // 2])  # neither the best nor the worst
    pixels = clips["with"].pixel_values_videos[shown, :, 0].numpy()
    pixels = (pixels - pixels.min()) / np.ptp(pixels)
    strip = {name: c.tokens[shown] for name, c in curves.items()}
    draw_surprise_strip(pixels, strip, plain.frame, folder / "surprise_where.png", title=title)
    return {
        "frames": plain.frame.tolist(),
        **{name: error.mean(dim=0).tolist() for name, error in errors.items()},
        "clips_with_larger_error_at_the_jump": (gain[:, JUMP_FRAME // 2 - 1] > 0).float().mean().item(),
    }


__all__ = [
    "JUMP_FRAME",
    "MOMENTS",
    "NUM_FRAMES",
    "describe",
    "digits_found",
    "draw_clips",
    "measure_surprise",
    "probe",
    "wanted",
]
