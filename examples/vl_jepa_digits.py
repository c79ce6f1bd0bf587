"""What does a tiny VL-JEPA say of moving digits, and how rarely does it have to speak? Beside a language model.

    python examples/vl_jepa_digits.py --output-dir runs/vl_jepa_digits

Needs no download. Two digits move over a canvas; captions, questions and answers are made with them. A VL-JEPA and a
language model behind the same video encoder, of as many weights, are trained from scratch on the same clips and texts
in as many steps, first on clips of one digit and their captions, then of two, then with questions, too, and asked
  1. for the caption of clips whose digits move as they never did in training, among all such captions,
  2. for the caption of each of many clips, and for the clip of each caption,
  3. questions, with the possible answers beside,
  4. to write captions,
  5. to describe a long video: VL-JEPA only where its embedding changes, the language model at regular intervals.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from digit_models import language_config, new_tokenizer, new_vl_jepa, pixels, vision_config
from digit_questions import ask_baseline, ask_vl_jepa, stories, tests, watch
from generative_baseline import GenerativeBaseline
from safetensors.torch import load_model, save_model
from short_runs import run_trainer, short_run
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup, set_seed

from hf_jepa import VLJepaForConditionalGeneration, VLJepaForPreTraining, VLJepaProcessor
from hf_jepa.cli.quickstart_recipe import one_thread
from hf_jepa.cli.tables import table
from hf_jepa.data.digit_stories import DigitStories
from hf_jepa.data.digit_texts import story_captions
from hf_jepa.data.vision_text import VLJepaDataCollator
from hf_jepa.evaluation.vision_language import VisionLanguageTasks
from hf_jepa.training.comparison import markdown_table
from hf_jepa.training.kept import kept, write_text
from hf_jepa.training.vision_language import VLJepaTrainer, VLJepaTrainingArguments


BATCH, LEARNING_RATE = 64, 1e-3
WEIGHTS = "model.safetensors"
COLUMNS = {
    "unseen": "caption of unseen moves",
    "text_to_video": "clip of a caption",
    "video_to_text": "caption of a clip",
    "which": "which digit",
    "what": "what it does",
    "is": "is it there",
    "written": "captions written",
    "clauses": "clauses of them",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/vl_jepa_digits"), help="where all is written")
    parser.add_argument("--one-digit-steps", type=int, default=600, help="of both models on clips of one digit")
    parser.add_argument("--steps", type=int, default=1500, help="of both on clips of two, without queries")
    parser.add_argument("--tuning-steps", type=int, default=600, help="of both on questions and captions")
    parser.add_argument("--decoder-steps", type=int, default=1500, help="of the decoder, on captions alone")
    parser.add_argument("--clips", type=int, default=256, help="to test on")
    parser.add_argument("--events", type=int, default=60, help="of the long video")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data")
    return parser.parse_args(argv)


# --- training -------------------------------------------------------------------------------------------------------


def stages(args: argparse.Namespace) -> list[tuple[str, int, DigitStories]]:
    """Of both models: name, steps and clips."""
    one = stories(args.one_digit_steps * BATCH, "train", "seen", args.seed + 2, caption_query="", num_digits=1)
    two = stories(args.steps * BATCH, "train", "seen", args.seed, caption_query="")
    both = stories(args.tuning_steps * BATCH, "train", "seen", args.seed + 1, task="both")
    return [
        ("one digit", args.one_digit_steps, one),
        ("captions", args.steps, two),
        ("questions", args.tuning_steps, both),
    ]


def train_vl_jepa(
    model: VLJepaForPreTraining, processor: VLJepaProcessor, stage: str, steps: int, data: DigitStories, args
) -> None:
    arguments = VLJepaTrainingArguments(
        **short_run(args.output_dir / "vl_jepa", steps, BATCH, args.seed),
        learning_rate=LEARNING_RATE,
        text_lr_multiplier=1.0,  # it starts from scratch, too
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 20),
    )
    trainer = VLJepaTrainer(
        model,
        arguments,
        train_dataset=data,
        data_collator=VLJepaDataCollator(processor),
        processing_class=processor,
    )
    run_trainer(trainer, f"VL-JEPA, {stage}")


def optimize(model: nn.Module, losses: Iterator[torch.Tensor], steps: int, title: str) -> None:
    """As the trainer above does it: AdamW, warm-up and cosine, clipping."""
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95))
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 20), steps)
    model.train()
    with tqdm(total=steps, desc=title, unit="step", mininterval=1.0) as bar:
        for loss in losses:
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3g}", refresh=False)
    model.eval()


def train_baseline(
    model: GenerativeBaseline, processor: VLJepaProcessor, stage: str, steps: int, data: DigitStories
) -> None:
    def losses() -> Iterator[torch.Tensor]:
        for samples in DataLoader(data, BATCH, collate_fn=list):
            clips = pixels(processor, np.stack([sample["video"] for sample in samples]))
            yield model(clips, *([sample[name] for sample in samples] for name in ("query", "target")))

    optimize(model, losses(), steps, f"language model, {stage}")


def train_decoder(model: VLJepaForConditionalGeneration, processor: VLJepaProcessor, args: argparse.Namespace) -> None:
    """On captions alone, of their own embeddings: no clip is needed."""
    rng, captions = np.random.default_rng(args.seed), story_captions("seen")

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(args.decoder_steps):
            texts = [captions[i] for i in rng.integers(len(captions), size=BATCH)]
            yield model(**processor(targets=texts, decoder_targets=texts)).loss

    optimize(model, losses(), args.decoder_steps, "decoder of VL-JEPA")


def made_vl_jepa(args: argparse.Namespace) -> dict:
    """Train a VL-JEPA and its decoder, save both; counts and CPU seconds."""
    set_seed(args.seed)
    tokenizer = new_tokenizer()
    model, processor = new_vl_jepa(tokenizer)
    sizes, seconds = {"VL-JEPA": trained(model)}, {}
    with timed(seconds, "VL-JEPA"):
        for stage in stages(args):
            train_vl_jepa(model, processor, *stage, args)
    speaker = VLJepaForConditionalGeneration.from_vl_jepa(model, language_config(tokenizer, layers=2))
    sizes["decoder of VL-JEPA"] = trained(speaker)
    with timed(seconds, "decoder of VL-JEPA"):
        train_decoder(speaker, processor, args)
    speaker.save_pretrained(args.output_dir / "vl_jepa")
    processor.save_pretrained(args.output_dir / "vl_jepa")
    return {"parameters": sizes, "cpu_seconds": seconds}


def made_baseline(args: argparse.Namespace, model: GenerativeBaseline, processor: VLJepaProcessor) -> dict:
    """Train the language model and save it; counts and CPU seconds."""
    seconds: dict[str, float] = {}
    with timed(seconds, "language model"):
        for stage in stages(args):
            train_baseline(model, processor, *stage)
    save_model(model, args.output_dir / "language_model" / WEIGHTS)
    return {"parameters": {"language model": trained(model)}, "cpu_seconds": seconds}


def run(args: argparse.Namespace) -> dict:
    """The experiment; writes the models, stream.png, table.md and results.json, and returns the results.

    Models that are there, trained with the same settings, are not trained again.
    """
    folder, settings = args.output_dir, {"batch": BATCH, "learning_rate": LEARNING_RATE}
    settings |= {name: value for name, value in vars(args).items() if name.endswith("steps") or name == "seed"}
    for name in ("vl_jepa", "language_model"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    found = kept(folder / "vl_jepa", settings, lambda: made_vl_jepa(args))
    speaker = VLJepaForConditionalGeneration.from_pretrained(folder / "vl_jepa").eval()
    processor = VLJepaProcessor.from_pretrained(folder / "vl_jepa")
    tokenizer = new_tokenizer()
    set_seed(args.seed)
    baseline = GenerativeBaseline(vision_config(), language_config(tokenizer, layers=4), tokenizer)
    other = kept(folder / "language_model", settings, lambda: made_baseline(args, baseline, processor))
    load_model(baseline, folder / "language_model" / WEIGHTS)
    baseline.eval()

    def prepare(frames: np.ndarray) -> torch.Tensor:
        return pixels(processor, frames)

    tasks = VisionLanguageTasks(speaker, processor, batch_size=64)
    asked = tests(args.clips, prepare)
    scores = {"VL-JEPA": ask_vl_jepa(tasks, asked), "language model": ask_baseline(baseline, asked)}
    scores["chance"] = chance(asked)
    stream = watch(tasks, baseline, prepare, args.events, args.seed, folder)
    results = {"settings": settings, "scores": scores, "stream": stream}
    results |= {name: found[name] | other[name] for name in ("parameters", "cpu_seconds")}
    write_text(folder / "results.json", json.dumps(results, indent=2, default=float) + "\n")
    write_text(folder / "table.md", markdown_table(*rows_of(scores)))
    return results


def trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Keep the CPU seconds of a part."""
    start = time.process_time()
    yield
    seconds[name] = round(time.process_time() - start, 1)


def chance(asked: dict[str, dict]) -> dict[str, float]:
    """What guessing among the candidates gives."""
    found: dict[str, list[float]] = {}
    for question in asked["questions"]["questions"]:
        found.setdefault(question.question.split()[0], []).append(1 / len(question.candidates))
    captions = len(set(asked["all"]["captions"]))
    guessed = {kind: float(np.mean(each)) for kind, each in found.items()}
    once = {"text_to_video": 1 / captions, "video_to_text": 1 / captions}
    return {"unseen": 1 / len(story_captions("unseen"))} | once | guessed


def rows_of(scores: dict[str, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [name, *(f"{100 * found[column]:.1f}" if column in found else "-" for column in COLUMNS)]
        for name, found in scores.items()
    ]
    return ["right, %", *COLUMNS.values()], rows


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    with one_thread():
        results = run(args)
    sizes = ", ".join(f"{name} {count:,}" for name, count in results["parameters"].items())
    print("\n" + table(*rows_of(results["scores"])))
    print(f"\ntrained weights: {sizes}")
    print(
        "CPU seconds of training: " + ", ".join(f"{name} {each:.0f}" for name, each in results["cpu_seconds"].items())
    )
    print(f"A video of {args.events} events: {results['stream']['verdict']}.")
    print(f"results.json, table.md, stream.png and the model are in {args.output_dir}")


if __name__ == "__main__":
    main()
