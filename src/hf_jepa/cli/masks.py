"""`hf-jepa masks`: what the context encoder would see of an image or a video, and what would have to be predicted."""

import argparse
from pathlib import Path

from hf_jepa.cli.main import command_parser


_IMAGE_OPTIONS = ("num_target_masks", "target_scale", "context_scale", "min_keep")
_CLIP_OPTIONS = ("tubelet_size", "mask", "temporal_scale", "random_tube")


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "masks",
        "Every sample of an image is a row: the image, its context, its targets. With --frames, clips are drawn: a "
        "row per sample and mask pair, a column per token frame. Without a picture the masks alone are drawn. "
        "Settings that no mask can satisfy are refused.",
        "hf-jepa masks photo.jpg --mode official --image-size 224 --patch-size 14 --output masks.png; for clips: "
        "hf-jepa masks clip.mp4 --frames 16 --mask 8 0.15 --mask 2 0.7",
    )
    parser.add_argument(
        "image",
        nargs="?",
        type=Path,
        help="image to draw over, or with --frames a video or folder of its frames; the centre is cropped",
    )
    parser.add_argument("--output", type=Path, default=Path("masks.png"), help="PNG to write")
    parser.add_argument("--mode", choices=("corrected", "official"), default="corrected", help="mask sampler")
    parser.add_argument("--image-size", type=int, nargs="+", default=[224], help="pixels: side, or height and width")
    parser.add_argument("--patch-size", type=int, default=16, help="pixels per token")
    parser.add_argument("--samples", type=int, default=4, help="samples to draw")
    parser.add_argument("--distribution", action="store_true", help="draw instead how often each token is masked")
    parser.add_argument("--step", type=int, default=0, help="training step")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other masks")
    blocks = parser.add_argument_group("blocks of an image")
    blocks.add_argument("--num-target-masks", type=int, help="target blocks per image (default: 4)")
    blocks.add_argument(
        "--target-scale", type=float, nargs=2, metavar=("LOW", "HIGH"), help="share of the grid (default: 0.15 0.2)"
    )
    blocks.add_argument(
        "--context-scale", type=float, nargs=2, metavar=("LOW", "HIGH"), help="share of the grid (default: 0.85 1.0)"
    )
    blocks.add_argument("--min-keep", type=int, help="every mask keeps more tokens than this (default: 10)")
    clip = parser.add_argument_group("clips")
    clip.add_argument("--frames", type=int, help="draw masks of clips of so many frames, spread over the video")
    clip.add_argument("--tubelet-size", type=int, help="frames per token (default: 2)")
    clip.add_argument(
        "--mask",
        type=float,
        nargs=2,
        action="append",
        metavar=("BLOCKS", "SHARE"),
        help="a mask pair: number of blocks and their share of a frame; may be repeated (default: 8 0.15 and 2 0.7)",
    )
    clip.add_argument(
        "--temporal-scale", type=float, nargs=2, metavar=("LOW", "HIGH"), help="share of the frames (default: 1 1)"
    )
    clip.add_argument("--random-tube", type=float, metavar="RATIO", help="random tubes, of which this share is target")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    image_size, grid_size = _sizes(args.image_size, args.patch_size)
    if args.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {args.samples}")
    for name in ("step", "seed"):
        if not 0 <= getattr(args, name) < 2**63:
            raise ValueError(f"--{name} must be in [0, 2^63), got {getattr(args, name)}")
    kind, others = ("clips", _IMAGE_OPTIONS) if args.frames is not None else ("images", _CLIP_OPTIONS)
    for name in others:
        if getattr(args, name) is not None:
            hint = "add --frames" if kind == "images" else "leave out --frames to draw masks of images"
            raise ValueError(f"--{name.replace('_', '-')} says nothing about masks of {kind}: {hint}")
    seed = {"seed": args.seed} if args.mode == "corrected" else {}  # official modes read the global generators
    return (_draw_clips if kind == "clips" else _draw_images)(args, image_size, grid_size, seed)


def _draw_images(args, image_size: tuple[int, int], grid_size: tuple[int, int], seed: dict) -> int:
    from hf_jepa.data.video_sources import VIDEO_SUFFIXES

    if args.image is not None and (args.image.is_dir() or args.image.suffix.lower() in VIDEO_SUFFIXES):
        kind = "folder" if args.image.is_dir() else "video"
        raise ValueError(f"{args.image} is a {kind}: add --frames to draw masks of a clip")
    image = None if args.image is None else _read_image(args.image, image_size)

    import torch

    from hf_jepa.masking.build import build_mask_sampler
    from hf_jepa.masking.statistics import measure_masks
    from hf_jepa.visualization.masks import draw_mask_distribution, draw_masks

    settings = {name: value for name in _IMAGE_OPTIONS if (value := getattr(args, name)) is not None}
    sampler = build_mask_sampler(args.mode, grid_size=grid_size, **settings, **seed)
    if args.distribution:
        statistics = measure_masks(sampler, global_seed=args.seed)
        print(draw_mask_distribution({args.mode: statistics}, args.output))
        return 0
    torch.manual_seed(args.seed)
    masks = sampler(torch.arange(args.samples), step=args.step)
    title = f"{args.mode} masks, {grid_size[0]} x {grid_size[1]} tokens, step {args.step}, seed {args.seed}"
    print(draw_masks(image, masks, grid_size, args.output, max_rows=args.samples, title=title))
    return 0


def _draw_clips(args, image_size: tuple[int, int], grid_size: tuple[int, int], seed: dict) -> int:
    tubelet_size = 2 if args.tubelet_size is None else args.tubelet_size
    if args.frames < 1 or tubelet_size < 1 or args.frames % tubelet_size:
        raise ValueError(f"a clip of {args.frames} frames does not divide into tubelets of {tubelet_size}")
    video_grid = (args.frames // tubelet_size, *grid_size)
    video = None if args.image is None else _read_clip(args.image, args.frames, image_size)

    import numpy as np
    import torch

    from hf_jepa.masking.build import build_video_mask_sampler
    from hf_jepa.masking.video_statistics import measure_video_masks
    from hf_jepa.visualization.video_masks import draw_video_mask_distribution, draw_video_masks

    sampler = build_video_mask_sampler(args.mode, grid_size=video_grid, **_clip_settings(args), **seed)
    if args.distribution:
        statistics = measure_video_masks(sampler, global_seed=args.seed)
        print(draw_video_mask_distribution({args.mode: statistics}, args.output))
        return 0
    torch.manual_seed(args.seed)
    np.random.seed(args.seed % 2**32)
    masks = sampler(torch.arange(args.samples), step=args.step)
    size = " x ".join(map(str, video_grid))
    title = f"{args.mode} masks, {size} tokens, step {args.step}, seed {args.seed}"
    print(draw_video_masks(video, masks, video_grid, args.output, max_samples=args.samples, title=title))
    return 0


def _clip_settings(args) -> dict:
    """Settings of `build_video_mask_sampler`."""
    from hf_jepa.masking.block_mask import VJEPA_MASKS, BlockMask

    if args.random_tube is not None:
        if args.mask or args.temporal_scale:
            raise ValueError("--random-tube draws no blocks: drop --mask and --temporal-scale")
        return {"kind": "random_tube", "ratio": args.random_tube}
    blocks = args.mask or [(mask.num_blocks, mask.spatial_scale[0]) for mask in VJEPA_MASKS]
    temporal_scale = args.temporal_scale or (1.0, 1.0)
    for num_blocks, _ in blocks:
        if num_blocks != int(num_blocks):
            raise ValueError(f"--mask takes a whole number of blocks and their share of a frame, got {num_blocks:g}")
    return {"masks": [BlockMask(int(number), share, temporal_scale=temporal_scale) for number, share in blocks]}


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


def _read_clip(path: Path, num_frames: int, size: tuple[int, int]):
    """uint8 array (num_frames, height, width, 3) of evenly spaced frames of a video file or a folder of frames.

    An image stands for all frames: (1, height, width, 3).
    """
    import numpy as np
    from PIL import Image

    from hf_jepa.data.transforms import ResizeCenterCrop
    from hf_jepa.data.video_readers import VIDEO_ERRORS, open_video

    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    try:
        with open_video(path) as video:
            if 1 < video.num_frames < num_frames:
                raise ValueError(f"it has {video.num_frames} frames, but a clip needs --frames {num_frames}")
            picked = (
                np.linspace(0, video.num_frames - 1, num_frames if video.num_frames > 1 else 1).round().astype(int)
            )
            frames = video.read(picked)
    except VIDEO_ERRORS as error:
        raise ValueError(f"cannot draw over {path}: {error}") from error
    crop = ResizeCenterCrop(size, crop_pct=1.0)
    return np.stack([np.asarray(crop(Image.fromarray(frame))) for frame in frames])


__all__ = ["main", "parser"]
