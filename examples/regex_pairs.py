"""Does the JEPA term teach a tiny language model more, at the same cost? Descriptions in, regular expressions out.

    python examples/regex_pairs.py --output-dir runs/regex_pairs

Needs no download: a grammar makes the pairs, a tokenizer is trained on them, and a Llama of 0.4 M weights starts from
scratch. At each of two budgets of floating point operations it is trained by the language-model loss alone, with the
JEPA loss of every batch, and with that of some batches; the loss alone also in as many steps as LLM-JEPA has. Each run
answers descriptions of a test split that shares no meaning with the training split. Finished runs are kept: a second
call goes on. `--tries` shows how the settings were chosen.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from hf_jepa.cli.quickstart_recipe import one_thread
from hf_jepa.cli.tables import table
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM
from hf_jepa.training.comparison import markdown_table
from hf_jepa.training.kept import write_text
from hf_jepa.training.text_comparison import OBJECTIVES, SAME_STEPS, TRIES, TextComparison, geometry, plan, run_all
from hf_jepa.visualization.embedding_geometry import draw_embedding_geometry
from hf_jepa.visualization.text_comparison import draw_text_comparison


ROWS = {"same_steps": SAME_STEPS.title} | {name: each.title for name, each in OBJECTIVES.items()}
SHARES = ("exact", "equivalent", "recall_at_1")
COLUMNS = {
    "exact": "exact match",
    "equivalent": "equivalent",
    "lm_loss": "test loss",
    "true_mean": "cosine, own Code",
    "shuffled_mean": "cosine, other Code",
    "auc": "AUC of the cosine",
    "recall_at_1": "own Code nearest",
}
PANELS = {"exact": "exact match", "equivalent": "equivalent on all probe lines", "auc": "AUC of the cosine"}
TRIES_SEED, TRIES_STEPS, TRIES_PAIRS = 100, 300, 300


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/regex_pairs"), help="where all is written")
    parser.add_argument("--jepa-steps", type=int, nargs="+", default=[200, 400], help="of LLM-JEPA, at each budget")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every row, at each budget")
    parser.add_argument("--pairs", type=int, default=4000, help="to train on")
    parser.add_argument("--test-pairs", type=int, default=500, help="to answer")
    parser.add_argument("--quick", action="store_true", help="one seed, one budget, few steps: does it run?")
    parser.add_argument("--tries", action="store_true", help="settings tried on other pairs of the training split")
    args = parser.parse_args(argv)
    if min(args.seeds, *args.jepa_steps) < 1:
        parser.error("--seeds and --jepa-steps must be at least 1")
    if args.quick:
        args.jepa_steps, args.seeds, args.pairs, args.test_pairs = [3], 1, 128, 40
    return args


def run(args: argparse.Namespace) -> dict:
    """The comparison; writes table.md, results.json and two pictures, and returns the results."""
    start, folder = time.perf_counter(), args.output_dir
    shared, found = TextComparison(args.pairs, args.test_pairs), {}
    with one_thread():
        for steps in args.jepa_steps:
            planned = {"same_steps": (SAME_STEPS, steps), **plan(OBJECTIVES, shared, steps)}
            found[steps] = run_all(planned, shared, range(args.seeds), folder / "runs" / str(steps))
        last = folder / "runs" / str(args.jepa_steps[-1])
        geometries = {
            OBJECTIVES[name].title: geometry(LlmJepaForCausalLM.from_pretrained(last / f"{name}-0"), shared, views)
            for name, views in (("lm", False), ("jepa", True))
        }
    lines = [[ROWS[name], *cells(seeds)] for rows in found.values() for name, seeds in rows.items()]
    header = ["", "steps", "TFLOP", *COLUMNS.values(), "CPU s"]
    verdicts = []
    for steps, rows in found.items():
        against = [(name, "lm") for name in rows if name != "lm"] + [("jepa", "same_steps")]
        verdicts += [f"Budget of {steps} steps of LLM-JEPA: {paired(rows, *names)}" for names in against]
    write_text(folder / "table.md", markdown_table(header, lines) + "\n" + "".join(f"- {line}\n" for line in verdicts))
    results = {"shared": vars(shared), "budgets": found, "verdicts": verdicts}
    results["seconds"] = round(time.perf_counter() - start, 1)
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    runs = {ROWS[name]: [run for rows in found.values() for run in rows[name]] for name in found[args.jepa_steps[0]]}
    title = f"{args.seeds} seeds, {args.pairs} pairs to learn from, {args.test_pairs} to answer"
    draw_text_comparison(runs, PANELS, folder / "comparison.png", title)
    draw_embedding_geometry(geometries, folder / "geometry.png", "test pairs, first seed, largest budget")
    print("\n" + table(header, lines) + "\n\n" + "\n".join(verdicts))
    return results


def run_tries(args: argparse.Namespace) -> None:
    """Train with each setting of `TRIES` at one budget and print what they answer; writes tries.md."""
    shared = TextComparison(args.pairs, TRIES_PAIRS if not args.quick else args.test_pairs, validate=True)
    tries = {f"{name}-{each.learning_rate:g}-{each.jepa_weight:g}": each for name in TRIES for each in TRIES[name]}
    with one_thread():
        planned = plan(tries, shared, args.jepa_steps[0] if args.quick else TRIES_STEPS)
        found = run_all(planned, shared, [TRIES_SEED], args.output_dir / "tries")
    lines = [
        [each.title, f"{each.learning_rate:g}", f"{each.jepa_weight:g}", str(found[name][0]["steps"])]
        + [f"{found[name][0][figure]:.3f}" for figure in ("exact", "equivalent", "lm_loss")]
        for name, each in tries.items()
    ]
    header = ["", "learning rate", "λ", "steps", "exact match", "equivalent", "loss"]
    write_text(args.output_dir / "tries.md", markdown_table(header, lines))
    print("\n" + table(header, lines))


def cells(seeds: list[dict]) -> list[str]:
    """A row of the table: mean and standard deviation over seeds."""
    shown = [str(seeds[0]["steps"]), f"{fmean(seed['gflops'] for seed in seeds) / 1000:.2f}"]
    for name in COLUMNS:
        shown.append(spread([seed[name] for seed in seeds], percent=name in SHARES))
    return [*shown, f"{fmean(seed['cpu_ms'] * seed['steps'] for seed in seeds) / 1000:.0f}"]


def spread(values: list[float], percent: bool) -> str:
    scale, form = (100, ".1f") if percent else (1, ".3f")
    mean, sd = fmean(values) * scale, (stdev(values) if len(values) > 1 else 0.0) * scale
    return f"{mean:{form}} ± {sd:{form}}" if len(values) > 1 else f"{mean:{form}}"


def paired(rows: dict[str, list[dict]], name: str, other: str) -> str:
    """What one row has more than another, seed by seed, in points of exact match."""
    points = [100 * (run["exact"] - base["exact"]) for run, base in zip(rows[name], rows[other], strict=True)]
    shown = ", ".join(f"{point:+.1f}" for point in points)
    line = f"{ROWS[name]} minus {ROWS[other]}: {fmean(points):+.1f} points ({shown})"
    if len(points) == 1:
        return f"{line}; one seed says nothing about the spread."
    if min(points) <= 0 <= max(points):
        return f"{line}; the signs differ, so neither is ahead."
    t = fmean(points) / (stdev(points) / math.sqrt(len(points))) if stdev(points) else math.inf
    return f"{line}; the same sign with every seed, paired t {t:.1f}."


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    (run_tries if args.tries else run)(args)
    print(f"results are in {args.output_dir}")


if __name__ == "__main__":
    main()
