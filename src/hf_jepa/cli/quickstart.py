"""`hf-jepa quickstart`: does a tiny I-JEPA, pretrained here and now, beat raw pixels and an untrained encoder?"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from statistics import mean, stdev

from hf_jepa.cli.main import command_parser
from hf_jepa.cli.tables import table


ROWS = {"raw": "raw pixels", "untrained": "untrained encoder", "pretrained": "pretrained encoder"}
PROBES = {"knn_mean": "k-NN", "knn_mean_std": "mean and std", "knn_max": "max", "linear": "linear probe"}
READOUT_NOTE = (
    "k-NN (k=20) and linear probe: mean of the tokens, for raw pixels all of them. For comparison k-NN on mean and "
    "standard deviation of the tokens, and on their maximum (for raw pixels: of the pixels of patches)."
)
WRITES = {"results.json", "model", "masks.png", "training.png", "pca.png", "neighbours.png"}
EQUAL = 1e-5  # largest relative difference of features that two orders of the same additions explain


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "quickstart",
        "Needs no download: grey crops of the photographs that come with scikit-image; left halves to learn from, "
        "right halves to test on; the question is which photograph a crop is from. Exits with 1 if the pretrained "
        "encoder does not beat both others in k-NN in every seed, or if stock AutoModel does not give its features.",
        "hf-jepa quickstart --output-dir runs/quickstart",
    )
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quickstart"), help="replaced when all is done")
    parser.add_argument("--seeds", type=int, default=3, help="how many runs, each with its own data order and weights")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps of a run")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.seeds < 1 or args.steps < 1:
        raise ValueError(f"--seeds and --steps must be at least 1, got {args.seeds} and {args.steps}")
    output = args.output_dir
    found = {entry.name for entry in output.iterdir()} if output.exists() else set()
    if found and (found - WRITES or "results.json" not in found):
        raise FileExistsError(f"{output} holds other files than a quickstart's: choose another --output-dir")
    work = output.absolute().with_name(f".{output.name}.{os.getpid()}.tmp")
    work.mkdir(parents=True)
    try:
        results = _run_or_fail(args.seeds, args.steps, work)
        if output.exists():
            shutil.rmtree(output)
        os.replace(work, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"results.json, model/ and four pictures (masks, training, pca, neighbours) are in {output}")
    return 0 if results["passed"] else 1


def _run_or_fail(seeds: int, steps: int, work: Path) -> dict:
    """Here no input is left that could be wrong: a ValueError is a bug, and shows its traceback."""
    try:
        return run(seeds, steps, work)
    except ValueError as error:
        raise RuntimeError("the quickstart failed") from error


def run(seeds: int, steps: int, work: Path) -> dict:
    """The experiment; everything it writes goes to `work`."""
    from hf_jepa.cli import quickstart_pictures
    from hf_jepa.cli import quickstart_recipe as recipe

    start = time.perf_counter()
    with recipe.one_thread():
        scores, first = _pretrain_and_score(recipe, seeds, steps, work)

    print(f"\n{_score_table(scores)}\n{READOUT_NOTE}\n")
    passed, sentence = compare({row: scores[row]["knn_mean"] for row in ROWS})
    print(f"k-NN: {sentence}")
    print(f"With the read-out that suits each best: {compare({row: _best_readout(scores[row]) for row in ROWS})[1]}")
    first["model"].save_pretrained(work / "model")
    reloaded = _reload(recipe, first, work)
    print("drawing pictures ...")
    quickstart_pictures.draw_all(first["model"].target_encoder, first["crops"], first["log"], 0, work)
    results = {
        "seeds": seeds,
        "steps": steps,
        "scores": scores,
        "beats_both_in_every_seed": passed,
        "collapse_verdict": first["verdict"],
        "stock_reload": reloaded,
        "passed": passed and reloaded["equal"],
        "seconds": round(time.perf_counter() - start, 1),
    }
    (work / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def _pretrain_and_score(recipe, seeds: int, steps: int, work: Path) -> tuple[dict, dict]:
    """Scores of each row, probe and seed, and all that the first seed leaves: crops, model, log and verdict."""
    crops, model = recipe.labelled(0), recipe.new_model(0)
    _print_introduction(crops, model, seeds, steps)
    with recipe.other_seeds(seeds, steps, work) as others:
        found, trainer = recipe.seed_scores(0, steps, work, crops, model)
        by_seed = [found, *others()]
    scores = {row: {probe: [found[row][probe] for found in by_seed] for probe in PROBES} for row in ROWS}
    log, verdict = trainer.state.log_history, trainer.collapse_monitor.verdict
    return scores, {"crops": crops, "model": model.eval(), "log": log, "verdict": verdict}


def _print_introduction(crops, model, seeds: int, steps: int) -> None:
    size = sum(parameter.numel() for parameter in model.target_encoder.parameters())
    classes = int(crops.gallery_labels.max()) + 1
    print(
        f"{classes} photographs, {len(crops.gallery)} labelled crops of their left halves, {len(crops.test)} of their "
        f"right halves (chance: {1 / classes:.3f})\n"
        f"I-JEPA with an encoder of {size:,} parameters, {steps} steps, {seeds} seed{'s' * (seeds > 1)}, on the CPU\n"
    )


def _best_readout(scores: dict[str, list[float]]) -> list[float]:
    return max((scores[probe] for probe in PROBES if probe.startswith("knn")), key=mean)


def _score_table(scores: dict[str, dict[str, list[float]]]) -> str:
    rows = [[title, *(spread(scores[row][probe]) for probe in PROBES)] for row, title in ROWS.items()]
    return table(["accuracy", *PROBES.values()], rows)


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation.

    Example:
        >>> spread([0.4, 0.5]), spread([0.4])
        ('0.450 ± 0.071', '0.400')
    """
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def compare(knn: dict[str, list[float]]) -> tuple[bool, str]:
    """Say whether the pretrained encoder beats both others by more than the spread of the seeds.

    Args:
        knn: k-NN accuracies of each seed under "raw", "untrained" and "pretrained".

    Returns:
        Whether its worst seed is above the best seed of either, and a sentence that says so.

    Example:
        >>> compare({"raw": [0.1, 0.2], "untrained": [0.2, 0.3], "pretrained": [0.4, 0.5]})[0]
        True
        >>> compare({"raw": [0.1, 0.2], "untrained": [0.2, 0.4], "pretrained": [0.4, 0.5]})[0]
        False
    """
    other = max(("raw", "untrained"), key=lambda row: max(knn[row]))
    margin = min(knn["pretrained"]) - max(knn[other])
    beats = margin > 0
    sentence = (
        f"the pretrained encoder ({spread(knn['pretrained'])}) {'beats' if beats else 'does NOT clearly beat'} "
        f"the best of the others, {'the ' * (other != 'raw')}{ROWS[other]} ({spread(knn[other])}): "
    )
    if len(knn["pretrained"]) == 1:
        return beats, sentence + f"the difference is {margin:+.3f}; one seed says nothing about the spread."
    return beats, sentence + f"between its worst seed and their best lie {margin:+.3f}."


def _reload(recipe, first: dict, work: Path) -> dict:
    scratch = work / "scratch"
    scratch.mkdir()
    found = recipe.reload_in_new_process(first["model"], work / "model", first["crops"].test, scratch)
    shutil.rmtree(scratch)
    found["equal"] = found["weights_equal"] and found["largest_difference"] <= EQUAL
    print(
        f"reloaded in a new process without hf_jepa as {found['class']}: weights "
        f"{'equal bit for bit' if found['weights_equal'] else 'DIFFER'}, features "
        f"{'equal' if found['largest_difference'] <= EQUAL else 'DIFFER'} "
        f"(largest relative difference {found['largest_difference']:.1e})"
    )
    return found


__all__ = ["compare", "main", "parser", "spread"]
