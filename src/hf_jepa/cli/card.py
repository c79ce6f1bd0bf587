"""`hf-jepa card`: the model card of a folder, written where there is none, and what is wrong with it."""

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
    parser.add_argument("--write", action="store_true", help="write a card first, where the folder has none")
    parser.add_argument("--license", help="of the weights, for the card that --write writes")
    parser.add_argument("--quiet", action="store_true", help="check the card without printing it")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.license and not args.write:
        raise ValueError("--license goes with --write, which writes a card")

    from hf_jepa.hub.card_check import CARD, check_card, read_card, without_tokens

    if args.write:
        from hf_jepa.hub.draft_card import draft_card

        draft_card(args.folder, args.license)
    if not args.quiet:
        print(without_tokens(read_card(args.folder)).rstrip(), end="\n\n", flush=True)
    faults = check_card(args.folder)
    for fault in faults:
        print(f"{args.folder / CARD}: {fault}", file=sys.stderr)
    if not faults:
        print(f"{args.folder / CARD}: nothing to correct")
    return 1 if faults else 0


__all__ = ["main", "parser"]
