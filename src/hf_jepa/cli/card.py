"""`hf-jepa card`: the model card of a folder, and what is wrong with it."""

import argparse
import sys
from pathlib import Path

from hf_jepa.cli.main import command_parser


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "card",
        "Asks nothing of the network: the head and what the Hub reads of it, licence, ids, scores and their sources, "
        "sections, links to files, the fingerprint, names in the snippet, paths of this machine, tokens. Exits with 1 "
        "and one line for each fault.",
        "hf-jepa card runs/converted",
    )
    parser.add_argument("folder", type=Path, help="folder of a checkpoint, with README.md")
    parser.add_argument("--quiet", action="store_true", help="check the card without printing it")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from hf_jepa.hub.card_check import CARD, check_card, read_card, without_tokens

    if not args.quiet:
        print(without_tokens(read_card(args.folder)).rstrip(), end="\n\n", flush=True)
    faults = check_card(args.folder)
    for fault in faults:
        print(f"{args.folder / CARD}: {fault}", file=sys.stderr)
    if not faults:
        print(f"{args.folder / CARD}: nothing to correct")
    return 1 if faults else 0


__all__ = ["main", "parser"]
