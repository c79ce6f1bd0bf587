"""`hf-jepa convert`: the converters of `conversion/` under one name."""

import argparse

from hf_jepa.cli.main import command_parser
from hf_jepa.registry import VARIANTS


def parser() -> argparse.ArgumentParser:
    from hf_jepa.hub.conversion import add_arguments

    parser = command_parser(
        "convert",
        "The architecture is read off the tensors; every key must find its place. The result is a folder that stock "
        "transformers loads. The checkpoint may be named first, without --checkpoint.",
        "hf-jepa convert checkpoint.pth.tar --output runs/converted --num-attention-heads 4",
    )
    convertible = sorted(name for name, variant in VARIANTS.items() if variant.convertible)
    parser.add_argument("--variant", choices=convertible, help="what the checkpoint holds; found out unless given")
    add_arguments(parser)
    return parser


def main(argv: list[str]) -> int:
    from hf_jepa.hub.conversion import run
    from hf_jepa.hub.inspect import variant_of_file, variant_of_folder

    named_first = bool(argv) and not argv[0].startswith("-")
    args = parser().parse_args(["--checkpoint", *argv] if named_first else argv)
    name = args.variant
    if name is None:
        variant = variant_of_folder(args.reverse) if args.reverse else variant_of_file(args.checkpoint)
        if not variant.convertible:
            raise ValueError(
                f"{args.reverse} is a model of {variant.title}, which has no official layout to return to"
            )
        name = variant.name
    run(name, args)
    return 0


__all__ = ["main", "parser"]
