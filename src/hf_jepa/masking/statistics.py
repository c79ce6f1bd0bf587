"""What a mask sampler does on average, measured: `python -m hf_jepa.masking.statistics --grid-size 14`."""

import argparse
from dataclasses import dataclass

import torch

from hf_jepa.masking.build import build_mask_sampler
from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler


@dataclass(frozen=True)
class MaskStatistics:
    """Averages over many batches of masks; tensors have the shape of the token grid.

    Args:
        context_probability: float64 tensor, how often a token is in a context.
        target_probability: float64 tensor, how often a token is in a target: one block of an image, all blocks of a
            mask pair of a clip.
        any_target_probability: float64 tensor, how often a token is in any target of its image or mask pair.
        context_lengths, target_lengths: tokens of a context or target, one number per batch.
    """

    context_probability: torch.Tensor
    target_probability: torch.Tensor
    any_target_probability: torch.Tensor
    context_lengths: list[int]
    target_lengths: list[int]


def measure_masks(
    sampler: MultiBlockMaskSampler | OfficialMultiBlockMaskSampler,
    num_steps: int = 400,
    batch_size: int = 16,
    global_seed: int = 0,
) -> MaskStatistics:
    """Draw `num_steps` batches of fresh images and count where contexts and targets fall.

    Args:
        sampler: a multi-block sampler of either mode.
        num_steps: batches to draw, steps 0, 1, ...
        batch_size: images per batch; the official mode depends on it.
        global_seed: seed of the global torch generator, which only the official mode reads; its state is restored.

    Returns:
        The statistics.

    Example:
        >>> statistics = measure_masks(OfficialMultiBlockMaskSampler(14), num_steps=3)
        >>> statistics.target_probability[-1].sum().item()  # the official mode never reaches the last row
        0.0
    """
    num_tokens = sampler.grid_size[0] * sampler.grid_size[1]
    context, target, any_target = (torch.zeros(num_tokens, dtype=torch.float64) for _ in range(3))
    context_lengths, target_lengths = [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(global_seed)
        for step in range(num_steps):
            masks = sampler(torch.arange(step * batch_size, (step + 1) * batch_size), step=step)
            context += torch.bincount(torch.stack(masks.context_mask).flatten(), minlength=num_tokens)
            target += torch.bincount(torch.stack(masks.target_mask).flatten(), minlength=num_tokens)
            in_any = torch.zeros(batch_size, num_tokens).scatter_(1, torch.cat(masks.target_mask, dim=1), 1.0)
            any_target += in_any.sum(dim=0)
            context_lengths.append(masks.context_mask[0].shape[1])
            target_lengths.append(masks.target_mask[0].shape[1])
    num_images = num_steps * batch_size
    return MaskStatistics(
        context_probability=(context / (num_images * sampler.num_context_masks)).view(sampler.grid_size),
        target_probability=(target / (num_images * sampler.num_target_masks)).view(sampler.grid_size),
        any_target_probability=(any_target / num_images).view(sampler.grid_size),
        context_lengths=context_lengths,
        target_lengths=target_lengths,
    )


def _table(grid_size: int, num_steps: int, batch_size: int, min_keep: int) -> str:
    """Both modes side by side: sizes, then the probabilities of every row of the grid."""
    lines = [f"{grid_size} x {grid_size} tokens, {num_steps} batches of {batch_size}"]
    for mode in ("official", "corrected"):
        measured = measure_masks(
            build_mask_sampler(mode, grid_size=grid_size, min_keep=min_keep), num_steps, batch_size
        )
        lines.append(f"\n{mode}")
        for kind in ("context", "target"):
            lengths = torch.tensor(getattr(measured, f"{kind}_lengths"), dtype=torch.float64)
            lines.append(f"  {kind} tokens: mean {lengths.mean():.1f}, {lengths.min():.0f} to {lengths.max():.0f}")
        lines.append(f"  share of the grid in any target: {measured.any_target_probability.mean():.3f}")
        never = (measured.context_probability + measured.any_target_probability == 0).sum()
        lines.append(f"  tokens that are never context nor target: {never} of {grid_size**2}")
        for label, axis in (("row", 1), ("column", 0)):
            for kind in ("context", "target"):
                values = getattr(measured, f"{kind}_probability").mean(dim=axis).tolist()
                lines.append(f"  {kind} by {label}: " + " ".join(f"{value:.2f}" for value in values))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the statistics of both modes of multi-block masking."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--grid-size", type=int, default=14, help="tokens per side")
    parser.add_argument("--steps", type=int, default=400, help="batches to draw")
    parser.add_argument("--batch-size", type=int, default=16, help="images per batch")
    parser.add_argument("--min-keep", type=int, default=10, help="every mask keeps more tokens than this")
    options = parser.parse_args(arguments)
    print(_table(options.grid_size, options.steps, options.batch_size, options.min_keep))


if __name__ == "__main__":
    main()


__all__ = ["MaskStatistics", "main", "measure_masks"]
