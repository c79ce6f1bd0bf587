"""What does a tiny V-JEPA 2 learn from videos of moving digits, and what surprises it?

    python examples/video_digits.py --output-dir runs/video_digits

Needs no download. Pretrains on endless clips of two digits that fly over a canvas and bounce off its borders, and asks
  1. what linear probes find in its features, beside those of the untrained encoder and beside raw pixels,
  2. whether its predictions fail where a digit suddenly is somewhere else,
  3. what its features look like on a real clip, of which it has never seen the like. `--checkpoint` takes another
     V-JEPA 2 for this picture.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from digit_probes import JUMP_FRAME, NUM_FRAMES, draw_clips, measure_surprise, probe
from short_runs import run_trainer, short_run
from tqdm.auto import tqdm
from transformers import set_seed

from hf_jepa import MultiBlock3dMaskSampler, VJepa2Config, VJepa2ForPreTraining, VJepa2Model
from hf_jepa.cli.tables import table
from hf_jepa.data.example_videos import EXAMPLE_VIDEOS, example_video
from hf_jepa.data.moving_digits import MovingDigits
from hf_jepa.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from hf_jepa.data.video_readers import open_video
from hf_jepa.data.video_transforms import frames_to_tensor, resize_frames, to_unit
from hf_jepa.data.videos import VideoCollator
from hf_jepa.masking.block_mask import BlockMask
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.kept import write_text
from hf_jepa.training.trainer import JepaTrainer
from hf_jepa.visualization.curves import draw_training_curves
from hf_jepa.visualization.video import draw_video_pca


BATCH_SIZE = 16
ROWS = ("raw pixels", "untrained encoder", "pretrained encoder")
CURVES = {"loss": ["loss"], "RankMe": ["rankme"], "cosine of prediction and target": ["prediction_target_cosine"]}
# The first hides the future of a quarter, the second of half of the clip; blocks hide a place at all times.
MASKS = (BlockMask(1, 0.25, max_temporal_keep=0.25), BlockMask(1, 0.25, max_temporal_keep=0.5))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/video_digits"), help="where all is written")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps of pretraining")
    parser.add_argument("--draws", type=int, default=3, help="how often the clips of the probes are drawn")
    parser.add_argument("--clips", type=int, default=512, help="to fit a probe on; half as many test it")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="heights of the real clip")
    parser.add_argument("--checkpoint", help="folder or Hub id of the V-JEPA 2 for the picture of the real clip")
    parser.add_argument("--video", default="bikes", help=f"a video file, or one of {', '.join(EXAMPLE_VIDEOS)}")
    parser.add_argument("--first-frame", type=int, default=190, help="of the clip of 31 frames that is shown")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data")
    return parser.parse_args(argv)


def new_model(seed: int) -> VJepa2ForPreTraining:
    set_seed(seed)
    config = VJepa2Config(
        crop_size=64,
        patch_size=16,
        frames_per_clip=NUM_FRAMES,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=2.0,
        pred_hidden_size=96,
        pred_num_hidden_layers=2,
        pred_num_attention_heads=4,
        pred_num_mask_tokens=1,
        rope_layout="interleaved",  # a true rotation: motion looks the same everywhere
        loss_type="mse",  # most of a frame is empty, and a median is then empty too
        initializer_range=0.1,
    )
    return VJepa2ForPreTraining(config).eval()


def pretrain(model: VJepa2ForPreTraining, steps: int, seed: int, folder: Path) -> list[dict]:
    """Pretrain in place on endless clips; returns the log."""
    args = JepaTrainingArguments(
        **short_run(folder, steps, BATCH_SIZE, seed),
        learning_rate=2e-3,
        start_learning_rate=0.0,
        final_learning_rate=1e-4,
        warmup_steps=max(1, steps // 10),
        weight_decay=0.05,
        final_weight_decay=0.05,
        start_momentum=0.99,
        final_momentum=0.99,
    )
    trainer = JepaTrainer(
        model,
        args,
        MultiBlock3dMaskSampler(model.config.grid_size, MASKS, seed=seed),
        train_dataset=MovingDigits(steps * BATCH_SIZE, num_frames=NUM_FRAMES, seed=seed),
        data_collator=VideoCollator(),
    )
    return run_trainer(trainer, "pretraining")


@torch.inference_mode()
def draw_real_clip(model: VJepa2Model, video: str, first: int, sizes: list[int], path: Path) -> None:
    """Features of a clip of a real video at several sizes."""
    with open_video(example_video(video) if video in EXAMPLE_VIDEOS else video) as reader:
        frames = reader.read(first + 2 * np.arange(NUM_FRAMES))  # (T, H, W, 3)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    patch, features = model.config.patch_size, {}
    for size in tqdm(sizes, desc="real clip", unit="size"):
        rows, columns = (max(1, round(size * side / frames.shape[1] / patch)) for side in frames.shape[1:3])
        pixels = to_unit(resize_frames(frames_to_tensor(frames), (rows * patch, columns * patch), antialias=True))
        grid = model.get_video_features(((pixels - mean) / std).unsqueeze(0)).grid[0]
        features[f"{rows * patch} x {columns * patch} pixels\n{rows} x {columns} tokens"] = grid
    title = f"{Path(video).stem}, and the first three principal components of its tokens"
    draw_video_pca(frames, features, path, max_columns=4, title=title)


def run(args: argparse.Namespace) -> dict:
    """The experiment; writes model, pictures and results.json to the folder, and returns the results."""
    start, folder = time.perf_counter(), args.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    model = new_model(args.seed)
    splits = (("train", args.clips), ("test", args.clips // 2))
    draws = [[draw_clips(split, count, 1000 + draw) for split, count in splits] for draw in range(args.draws)]
    scores = {row: [] for row in ROWS}
    for draw in tqdm(draws, desc="probes of raw pixels and of the untrained encoder", unit="draw"):
        scores[ROWS[0]].append(probe(None, *draw))
        scores[ROWS[1]].append(probe(model.target_encoder, *draw))
    clock = time.perf_counter(), time.process_time()
    log = pretrain(model, args.steps, args.seed, folder / "model")
    seconds = {"pretraining": time.perf_counter() - clock[0], "pretraining_cpu": time.process_time() - clock[1]}
    for draw in tqdm(draws, desc="probes of the pretrained encoder", unit="draw"):
        scores[ROWS[2]].append(probe(model.target_encoder, *draw))
    model.save_pretrained(folder / "model")
    draw_training_curves(log, CURVES, folder / "training.png")
    surprise = measure_surprise(model.base_model, folder)
    shown = VJepa2Model.from_pretrained(args.checkpoint).eval() if args.checkpoint else model.base_model
    draw_real_clip(shown, args.video, args.first_frame, args.sizes, folder / "features.png")
    seconds |= {"all": time.perf_counter() - start, "all_cpu": time.process_time()}
    results = {"steps": args.steps, "scores": scores, "surprise": surprise, "seconds": seconds}
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def report(results: dict) -> str:
    """The table and what else was found, as text."""
    names, at = list(results["scores"][ROWS[0]][0]), results["surprise"]["frames"].index(JUMP_FRAME)
    columns = {row: {n: [draw[n] for draw in draws] for n in names} for row, draws in results["scores"].items()}
    rows = [[row, *(f"{mean(of[n]):.3f} ({min(of[n]):.3f})" for n in names)] for row, of in columns.items()]
    text = table(["mean (worst draw)", "digits found", "velocity R^2", "position R^2"], rows)
    jump, plain = results["surprise"]["with a jump"][at], results["surprise"]["without a jump"][at]
    share = results["surprise"]["clips_with_larger_error_at_the_jump"]
    return (
        f"\n{text}\n\nPrediction error where a digit jumps: {jump:.3f}, in the same clips without the jump "
        f"{plain:.3f}; larger in {share:.0%} of the clips.\n"
        f"{results['steps']} steps of pretraining took {results['seconds']['pretraining']:.0f} seconds, all together "
        f"{results['seconds']['all']:.0f}."
    )


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    print(report(run(args)))
    print(f"results.json, model/ and pictures (features, surprise, surprise_where, training) are in {args.output_dir}")


if __name__ == "__main__":
    main()
