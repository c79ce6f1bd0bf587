"""`hf-jepa inspect`: what is in a checkpoint, before anyone loads it."""

import argparse
from pathlib import Path

from hf_jepa.cli.main import command_parser


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "inspect",
        "Prints the variant, its sizes and the tensors of each part. Exits with 1 if a value is NaN or infinite, or "
        "if the fingerprint saved beside the weights is not what those of the target encoder give.",
        "hf-jepa inspect runs/converted --keys",
    )
    parser.add_argument(
        "checkpoint", type=Path, help="folder of a model, or an official file; of a Hub id: hf-jepa verify"
    )
    parser.add_argument("--keys", action="store_true", help="list every tensor with its shape")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from hf_jepa.hub.inspect import inspect_checkpoint

    report, fingerprint_agrees = inspect_checkpoint(args.checkpoint, keys=args.keys)
    print(report)
    return 0 if fingerprint_agrees else 1


__all__ = ["main", "parser"]
