"""`hf-jepa convert`: the converters of `conversion/` under one name."""

import argparse
import re

from hf_jepa.cli.main import command_parser
from hf_jepa.registry import VARIANTS


def parser() -> argparse.ArgumentParser:
    from hf_jepa.hub.conversion import add_arguments

    parser = command_parser(
        "convert",
        "The architecture is read off the tensors; every key must find its place. The result is a folder that stock "
        "transformers loads. The checkpoint may be named first, without --checkpoint, and may be an address (http or "
        "https): it is fetched into the cache once, and its SHA-256 is shown. Probes are converted with their "
        "encoder: see `hf-jepa convert --probe --help`.",
        "hf-jepa convert checkpoint.pth.tar --output runs/converted --num-attention-heads 4",
    )
    convertible = sorted(name for name, variant in VARIANTS.items() if variant.convertible)
    parser.add_argument("--variant", choices=convertible, help="what the checkpoint holds (default: found out)")
    add_arguments(parser)
    return parser


def probe_parser() -> argparse.ArgumentParser:
    from hf_jepa.hub.probes import add_arguments

    parser = command_parser(
        "convert",
        "This is how official probes of V-JEPA, V-JEPA 2 and V-JEPA 2.1 become models with heads; the encoder decides "
        "whose probe it is.",
        "hf-jepa convert --probe ssv2-vitl-16x2x3.pt --encoder vitl.pt --output runs/vjepa2-vitl-ssv2",
    )
    add_arguments(parser)
    return parser


def main(argv: list[str]) -> int:
    from hf_jepa.hub import probes
    from hf_jepa.hub.conversion import run
    from hf_jepa.hub.inspect import variant_of_file, variant_of_folder

    if {word.split("=")[0] for word in argv} & {"--probe", "--encoder"}:
        named_first = not argv[0].startswith("-")
        probes.run(_parsed(probe_parser(), ["--probe", *argv] if named_first else argv))
        return 0
    named_first = bool(argv) and not argv[0].startswith("-")
    args = _parsed(parser(), ["--checkpoint", *argv] if named_first else argv)
    if args.reverse is not None and probes.holds_probe(args.reverse):
        print(probes.revert_probe(args.reverse, args.output))
        return 0
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


def _parsed(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """The arguments, files of the network replaced by those in the cache; nothing is fetched for wrong arguments."""
    from hf_jepa.hub.download import download, is_url, shown
    from hf_jepa.hub.files import require_new_folder

    args = parser.parse_args(argv)
    options = [re.fullmatch(r"(--[\w-]+=)?(.*)", word, re.DOTALL).groups(default="") for word in argv]
    if not any(is_url(value) for _, value in options):
        return args
    require_new_folder(args.output)
    found = []
    for option, value in options:
        if is_url(value):
            url, (value, digest) = value, download(value)
            print(f"fetched {shown(url)} to {value}\n  sha256 {digest}")
        found.append(f"{option}{value}")
    return parser.parse_args(found)


__all__ = ["main", "parser"]
