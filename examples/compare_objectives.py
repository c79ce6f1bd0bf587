"""Which objective for images teaches the same small encoder most, in the same steps on the same data?

    python examples/compare_objectives.py --output-dir runs/compare_objectives

Needs no download: grey crops of the bundled photographs, left halves to learn from, right halves to test on; the
question is which photograph a crop is from. `--dataset FOLDER`, with a folder of images for each class (or `train` and
`test` folders of such), compares on other images. Every objective of the registry takes part, beside raw pixels, the
untrained encoder and one that is trained with labels. Finished runs are kept: a second call goes on, and calls with
different `--objectives` may share a folder.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from hf_jepa.cli.quickstart_recipe import one_thread
from hf_jepa.cli.tables import table
from hf_jepa.training.comparison import BASELINES, SUPERVISED, Comparison, compare, markdown_table
from hf_jepa.training.comparison_data import divide
from hf_jepa.training.kept import write_text
from hf_jepa.training.objectives import Objective, image_objectives
from hf_jepa.training.pretrain_image import EMBEDDED
from hf_jepa.visualization.objectives import draw_objectives


COLUMNS = (
    "k-NN",
    "linear probe",
    "k-NN before",
    "RankMe",
    "tokens per image",
    "CPU ms per step",
    "MiB",
    "trained",
    "monitor",
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    known = image_objectives()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output-dir", type=Path, default=Path("runs/compare_objectives"), help="where all is written"
    )
    parser.add_argument("--dataset", default=EMBEDDED, help=f"a folder of images, or '{EMBEDDED}'")
    parser.add_argument("--image-size", type=int, default=48, help="pixels, a multiple of 8")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of every run")
    parser.add_argument("--batch-size", type=int, default=64, help="images of a step")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every objective")
    parser.add_argument("--objectives", nargs="+", choices=list(known), default=list(known), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="one seed and 40 steps: does it run?")
    parser.add_argument("--validate", action="store_true", help="judge on training halves, to choose settings by")
    parser.add_argument("--accelerator", action="store_true", help="train on an accelerator where there is one")
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}")
    if args.quick:
        args.seeds, args.steps = 1, 40
    return args


def run(args: argparse.Namespace) -> dict:
    """The comparison; writes table.md, results.json and objectives.png, and returns the results."""
    start, known, folder = time.perf_counter(), image_objectives(), args.output_dir
    dataset = args.dataset
    if dataset != EMBEDDED and Path(dataset).is_dir():
        dataset = str(divide(Path(dataset), folder / "divided"))
    shared = Comparison(
        dataset, args.steps, args.batch_size, args.image_size, use_cpu=not args.accelerator, validate=args.validate
    )
    chosen = {name: known[name] for name in args.objectives}
    with one_thread():
        found = compare(chosen, shared, args.seeds, folder / "runs")
    titles = BASELINES | {name: objective.title for name, objective in chosen.items()} | SUPERVISED
    ranked = sorted(chosen, key=lambda name: -fmean(seed["knn"] for seed in found[name]))
    rows = {titles[name]: found[name] for name in (*BASELINES, *ranked, *SUPERVISED)}
    results = {"shared": vars(shared), "seeds": args.seeds, "rows": rows, "verdict": verdict(rows)}
    results["seconds"] = round(time.perf_counter() - start, 1)
    lines = [[name, *cells(seeds)] for name, seeds in rows.items()]
    write_text(folder / "table.md", markdown_table(["", *COLUMNS], lines) + "\n" + notes(chosen))
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    references = [*BASELINES.values(), *SUPERVISED.values()]
    title = f"{args.steps} steps of {args.batch_size} images, {args.seeds} seeds"
    draw_objectives(rows, folder / "objectives.png", references, title)
    print(f"\n{table(['', *COLUMNS], lines)}\n\n{results['verdict']}")
    return results


def cells(seeds: list[dict]) -> list[str]:
    """A row of the table: mean and standard deviation of accuracies, means of the rest."""
    shown = [spread([seed[name] for seed in seeds]) for name in ("knn", "linear")]
    for name, form in {"knn_before": ".3f", "rankme": ".1f"}.items():
        values = [seed[name] for seed in seeds if name in seed]
        shown.append(format(fmean(values), form) if values else "-")
    if "cpu_ms" not in seeds[0]:
        return shown + ["-"] * (len(COLUMNS) - len(shown))
    shown += [f"{fmean(seed[name] for seed in seeds):.0f}" for name in ("tokens_per_image", "cpu_ms", "memory_mib")]
    verdicts = [seed["verdict"] for seed in seeds if "verdict" in seed]
    return [*shown, f"{seeds[0]['trained_parameters']:,}", ", ".join(dict.fromkeys(verdicts)) or "-"]


def spread(values: list[float]) -> str:
    return f"{fmean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def verdict(rows: dict[str, list[dict]]) -> str:
    """Who is ahead in k-NN, whether by more than the spread of the seeds, and who learned nothing."""
    knn = {name: [seed["knn"] for seed in seeds] for name, seeds in rows.items()}
    ranked = [name for name in knn if name not in {*BASELINES.values(), *SUPERVISED.values()}]
    behind = [name for name in ranked if any(seed["knn"] <= seed["knn_before"] for seed in rows[name])]
    lines = [f"Not above its own untrained encoder in every seed: {', '.join(behind) or 'none'}."]
    if len(ranked) > 1:
        first, second = ranked[:2]
        apart = min(knn[first]) > max(knn[second])
        by = "its worst seed is above the other's best" if apart else "their seeds overlap, so neither is first"
        if len(knn[first]) == 1:
            by = "one seed says nothing about the spread"
        lines.insert(0, f"k-NN: {first} ({spread(knn[first])}) is ahead of {second} ({spread(knn[second])}); {by}.")
    return " ".join(lines)


def notes(chosen: dict[str, Objective]) -> str:
    lines = [
        f"- {each.title}: the encoder has {each.fields.encoder}." for each in chosen.values() if each.fields.encoder
    ]
    return "\n" + "\n".join(dict.fromkeys(lines)) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    run(args)
    print(f"table.md, results.json, objectives.png and runs/ are in {args.output_dir}")


if __name__ == "__main__":
    main()
