"""`hf-jepa estimate`: the memory of a run per GPU before it is started, and how its throughput grows, on paper."""

import argparse
from pathlib import Path

from hf_jepa.cli.main import command_parser
from hf_jepa.cli.tables import table


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "estimate",
        "The step of the recipe is run on tensors that have sizes and no values, so no GPU, data or weights are "
        "needed. Further options are fields of the recipe (hf-jepa train ijepa --help).",
        "hf-jepa estimate training_scripts/configs/ijepa/tiny.yaml --strategy zero2 --processes 8",
    )
    parser.add_argument("recipe", nargs="?", help="recipe (.yaml), or a variant, with the defaults of its recipes")
    parser.add_argument("--variant", help="of a recipe whose folder is not named so")
    parser.add_argument("--size", nargs="+", help="named sizes of a fresh model, instead of that of the recipe")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--config", help="config file of accelerate launch, or the name of one of the package: zero3")
    where.add_argument("--strategy", help="single, ddp, zero1, zero2, zero3, zero3_offload or fsdp2", default="single")
    parser.add_argument("--processes", type=int, help="GPUs (default: those of the config, else 8, or 1 for single)")
    parser.add_argument("--batch-size", type=int, help="samples per GPU, instead of those of the recipe")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="instead of that of the recipe")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="as if the recipe asked for it")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="also find the largest batch that fits")
    parser.add_argument("--measure", action="store_true", help="run two real steps here in one process, and compare")
    parser.add_argument("--nodes", type=_numbers, metavar="1,2,4", help="how throughput grows with machines, on paper")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="--nodes: GPUs of a machine")
    parser.add_argument("--bandwidth", type=float, default=400.0, help="--nodes: Gbit/s of a machine's network")
    parser.add_argument("--tflops", type=float, default=300.0, help="--nodes: what a GPU computes in such a model")
    parser.add_argument("--table", action="store_true", help="the memory table of docs/scaling.md instead of a recipe")
    parser.add_argument("--configs", type=Path, default=Path("training_scripts/configs"), help="--table: the recipes")
    parser.add_argument("--output", type=Path, help="--table: document between whose markers it is written")
    return parser


def main(argv: list[str]) -> int:
    args, fields = parser().parse_known_args(argv)
    if args.table:
        return _table(args)
    if args.recipe is None:
        raise ValueError("name a recipe or a variant, or ask for --table")

    from hf_jepa.training.estimate import Estimator
    from hf_jepa.training.estimate_recipes import read_job

    strategy = _strategy(args)
    for size in args.size or [None]:
        given = {"--model_size": size, "--per_device_train_batch_size": args.batch_size}
        given["--gradient_checkpointing"] = "true" if args.gradient_checkpointing else None
        given["--bf16"] = None if args.precision is None else str(args.precision == "bf16").lower()
        overrides = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        estimator = Estimator(read_job(args.recipe, [*overrides, *fields], args.variant))
        if args.nodes:
            _growth(estimator, strategy, args)
        else:
            _memory(estimator, strategy, args)
    return 0


def _memory(estimator, strategy, args: argparse.Namespace) -> None:
    from hf_jepa.training.estimate import GIB

    estimate, training = estimator(strategy), estimator.job.training
    precision = "float32" if estimator.autocast is None else f"autocast to {str(estimator.autocast)[6:]}"
    recomputes = ", layers recomputed" if training.gradient_checkpointing else ""
    print(f"{estimator.job.name}: {estimate.samples} samples per GPU, {precision}{recomputes}")
    print(f"{strategy.name} on {strategy.processes} GPU{'s' * (strategy.processes > 1)}, GiB per GPU:\n")
    rows = [[name, f"{size / GIB:.2f}"] for name, size in estimate.device.items() if size]
    print(table(["part", "GiB"], [*rows, ["total", f"{estimate.total / GIB:.2f}"]]))
    if estimate.host:
        rows = [[name, f"{size / GIB:.2f}"] for name, size in estimate.host.items()]
        print("\n" + table(["memory of the host, per process", "GiB"], rows))
    if args.gpu_memory:
        most = estimator.largest_batch(strategy, int(args.gpu_memory * GIB))
        print(f"\nlargest batch in {args.gpu_memory:g} GiB: {most} samples per GPU")
    if args.measure:
        _measure(estimator)
    print("\nPyTorch's context and what its allocator cannot use (fragmentation) come on top.")


def _measure(estimator) -> None:
    import torch

    from hf_jepa.training.estimate import GIB
    from hf_jepa.training.estimate_measure import measured_peak
    from hf_jepa.training.estimate_strategies import Strategy

    device = "cuda" if torch.cuda.is_available() else "cpu"
    estimate = estimator(Strategy("single"))
    peak = measured_peak(estimator.job, estimate.samples, device, estimator.autocast)
    off = 100 * (estimate.total / peak - 1)
    print(
        f"\none process on {device}: estimate {estimate.total / GIB:.3f} GiB, peak {peak / GIB:.3f} GiB ({off:+.1f} %)"
    )


def _growth(estimator, strategy, args: argparse.Namespace) -> None:
    from hf_jepa.training.estimate_tables import Cluster, growth_rows

    cluster = Cluster(args.gpus_per_node, args.bandwidth * 1e9, args.tflops * 1e12)
    print(f"{estimator.job.name}, {strategy.name}: on paper, not measured")
    for strong, title in ((False, "batch per GPU fixed"), (True, "global batch fixed")):
        rows = growth_rows(estimator, strategy.name, args.nodes, cluster, strong)
        head = ["machines", "GPUs", "batch per GPU", "compute", "exposed", "samples/s", "efficiency"]
        print(f"\n{title}\n{table(head, rows)}")


def _table(args: argparse.Namespace) -> int:
    from hf_jepa.training.estimate_tables import memory_table, write_between_markers

    if args.output is None:
        print(memory_table(args.configs))
    else:
        write_between_markers(args.output, memory_table(args.configs))
    return 0


def _strategy(args: argparse.Namespace):
    from hf_jepa.training.estimate_strategies import Strategy, read_strategy

    if args.config:
        return read_strategy(args.config, args.processes)
    return Strategy(args.strategy, args.processes or (1 if args.strategy == "single" else 8))


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers of machines are 1 or more")
    return numbers


__all__ = ["main", "parser"]
