"""What a sampler of clips does on average: `python -m hf_jepa.masking.video_statistics --grid-size 8 14 14`."""

import argparse
import math

import numpy as np
import torch

from hf_jepa.masking.build import VideoMaskSampler, build_video_mask_sampler
from hf_jepa.masking.statistics import MaskStatistics


def measure_video_masks(
    sampler: VideoMaskSampler, num_steps: int = 200, batch_size: int = 24, global_seed: int = 0
) -> list[MaskStatistics]:
    """Draw `num_steps` batches of fresh clips and count where contexts and targets fall.

    Args:
        sampler: a sampler of clips of either mode.
        num_steps: batches to draw, steps 0, 1, ...
        batch_size: clips per batch; the official mode depends on it.
        global_seed: seed of the global generators of torch and numpy, which only official modes read; their states are
            restored.

    Returns:
        The statistics of every mask pair, with probabilities (frames, rows, columns).

    Example:
        >>> from hf_jepa import OfficialMultiBlock3dMaskSampler
        >>> short_range, _ = measure_video_masks(OfficialMultiBlock3dMaskSampler((8, 14, 14)), num_steps=3)
        >>> by_frame = short_range.context_probability.mean(dim=(1, 2))
        >>> bool(by_frame[0] > 2 * by_frame[-1])  # the official mode cuts the last frames off
        True
    """
    num_tokens = math.prod(sampler.grid_size)
    counts, lengths = torch.tensor(0), []
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(global_seed)
            np.random.seed(global_seed)
            for step in range(num_steps):
                masks = sampler(torch.arange(step * batch_size, (step + 1) * batch_size), step=step)
                drawn = [
                    [torch.bincount(mask.flatten(), minlength=num_tokens) for mask in pair]
                    for pair in zip(*masks, strict=True)
                ]
                counts = counts + torch.stack([torch.stack(pair) for pair in drawn])  # (pairs, 2, N)
                lengths.append([[mask.shape[1] for mask in pair] for pair in zip(*masks, strict=True)])
        finally:
            np.random.set_state(numpy_state)
    probability = (counts / (num_steps * batch_size)).double().unflatten(-1, sampler.grid_size)
    return [
        MaskStatistics(
            context_probability=context,
            target_probability=target,
            any_target_probability=target,
            context_lengths=[step[i][0] for step in lengths],
            target_lengths=[step[i][1] for step in lengths],
        )
        for i, (context, target) in enumerate(probability)
    ]


def _table(grid_size: tuple[int, int, int], num_steps: int, batch_size: int) -> str:
    """Both modes side by side: sizes, then the probabilities of every frame, row and column of the grid."""
    frames, rows, columns = grid_size
    lines = [f"{frames} x {rows} x {columns} tokens, {num_steps} batches of {batch_size}"]
    for mode in ("official", "corrected"):
        sampler = build_video_mask_sampler(mode, grid_size=grid_size)
        pairs = zip(sampler.masks, measure_video_masks(sampler, num_steps, batch_size), strict=True)
        for mask, measured in pairs:
            lines.append(
                f"\n{mode}, {mask.num_blocks} blocks of {mask.spatial_scale[0]:g} to {mask.spatial_scale[1]:g}"
            )
            for kind in ("context", "target"):
                lengths = torch.tensor(getattr(measured, f"{kind}_lengths"), dtype=torch.float64)
                lines.append(f"  {kind} tokens: mean {lengths.mean():.1f}, {lengths.min():.0f} to {lengths.max():.0f}")
            for kind in ("context", "target"):
                for label, others in (("frame", (1, 2)), ("row", (0, 2)), ("column", (0, 1))):
                    values = getattr(measured, f"{kind}_probability").mean(dim=others).tolist()
                    lines.append(f"  {kind} by {label}: " + " ".join(f"{value:.2f}" for value in values))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the statistics of both modes of multi-block masks of clips."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--grid-size", type=int, nargs=3, default=(8, 14, 14), help="frames, rows, columns in tokens")
    parser.add_argument("--steps", type=int, default=200, help="batches to draw")
    parser.add_argument("--batch-size", type=int, default=24, help="clips per batch")
    options = parser.parse_args(arguments)
    print(_table(tuple(options.grid_size), options.steps, options.batch_size))


if __name__ == "__main__":
    main()


__all__ = ["main", "measure_video_masks"]
