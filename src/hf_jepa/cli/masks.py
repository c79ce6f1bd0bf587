"""`hf-jepa masks`: what the context encoder would see of an image, and what it would have to predict."""

import argparse
from pathlib import Path

from hf_jepa.cli.main import command_parser


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "masks",
        "Every sample is a row: the image, its context, its targets. Without an image the masks alone are drawn. "
        "Settings that no mask can satisfy are refused.",
        "hf-jepa masks photo.jpg --mode official --image-size 224 --patch-size 14 --output masks.png",
    )
    parser.add_argument("image", nargs="?", type=Path, help="image to draw over; its centre is cropped to the grid")
    parser.add_argument("--output", type=Path, default=Path("masks.png"), help="PNG to write")
    parser.add_argument("--mode", choices=("corrected", "official"), default="corrected", help="mask sampler")
    parser.add_argument("--image-size", type=int, nargs="+", default=[224], help="pixels: side, or height and width")
    parser.add_argument("--patch-size", type=int, default=16, help="pixels per token")
    parser.add_argument("--samples", type=int, default=4, help="samples to draw, a row each")
    parser.add_argument("--distribution", action="store_true", help="draw instead how often each token is masked")
    parser.add_argument("--step", type=int, default=0, help="training step, which sets the block sizes")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other masks")
    blocks = parser.add_argument_group("blocks")
    blocks.add_argument("--num-targets", type=int, default=4, help="target blocks per image")
    blocks.add_argument(
        "--target-scale", type=float, nargs=2, default=(0.15, 0.2), metavar=("LOW", "HIGH"), help="share of the grid"
    )
    blocks.add_argument(
        "--context-scale", type=float, nargs=2, default=(0.85, 1.0), metavar=("LOW", "HIGH"), help="share of the grid"
    )
    blocks.add_argument("--min-keep", type=int, default=10, help="every mask keeps more tokens than this")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    image_size, grid_size = _sizes(args.image_size, args.patch_size)
    if args.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {args.samples}")
    for name in ("step", "seed"):
        if not 0 <= getattr(args, name) < 2**63:
            raise ValueError(f"--{name} must be in [0, 2^63), got {getattr(args, name)}")
    image = None if args.image is None else _read_image(args.image, image_size)

    import torch

    from hf_jepa.masking.build import build_mask_sampler
    from hf_jepa.masking.statistics import measure_masks
    from hf_jepa.visualization.masks import draw_mask_distribution, draw_masks

    settings = {"seed": args.seed} if args.mode == "corrected" else {}  # the official mode reads torch's generator
    sampler = build_mask_sampler(
        args.mode,
        grid_size=grid_size,
        context_scale=tuple(args.context_scale),
        target_scale=tuple(args.target_scale),
        num_target_masks=args.num_targets,
        min_keep=args.min_keep,
        **settings,
    )
    if args.distribution:
        statistics = measure_masks(sampler, global_seed=args.seed)
        print(draw_mask_distribution({args.mode: statistics}, args.output))
        return 0
    torch.manual_seed(args.seed)
    masks = sampler(torch.arange(args.samples), step=args.step)
    title = f"{args.mode} masks, {grid_size[0]} x {grid_size[1]} tokens, step {args.step}, seed {args.seed}"
    print(draw_masks(image, masks, grid_size, args.output, max_rows=args.samples, title=title))
    return 0


def _sizes(image_size: list[int], patch_size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Image size (height, width) in pixels and grid size (rows, columns) in tokens."""
    if len(image_size) > 2:
        raise ValueError(f"--image-size takes a side, or height and width, got {len(image_size)} numbers")
    height, width = image_size[0], image_size[-1]
    if patch_size < 1 or min(height, width) < 1 or height % patch_size or width % patch_size:
        raise ValueError(f"an image of {height} x {width} pixels does not divide into patches of {patch_size}")
    return (height, width), (height // patch_size, width // patch_size)


def _read_image(path: Path, size: tuple[int, int]):
    """uint8 array (height, width, 3)."""
    import numpy as np

    from hf_jepa.data.decoding import DECODE_ERRORS, decode_image
    from hf_jepa.data.transforms import ResizeCenterCrop

    if not path.is_file():
        raise FileNotFoundError(f"no such image: {path}")
    try:
        image = decode_image(path)
    except DECODE_ERRORS as error:
        raise ValueError(f"cannot read {path} as an image: {error}") from error
    return np.asarray(ResizeCenterCrop(size, crop_pct=1.0)(image))


__all__ = ["main", "parser"]
