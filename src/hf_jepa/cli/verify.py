"""`hf-jepa verify`: whether a checkpoint is what it was when it was published."""

import argparse

from hf_jepa.cli.main import command_parser


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "verify",
        "Of a Hub id all files are downloaded and compared with the hashes that the Hub names. Then the fingerprint "
        "is computed anew. Exits with 1 if something differs.",
        "hf-jepa verify me/ijepa-vith14 --revision main",
    )
    parser.add_argument("checkpoint", help="Hub id or folder")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id (default: the main branch)")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from hf_jepa.hub.verify import verify_checkpoint

    report, agrees = verify_checkpoint(args.checkpoint, args.revision)
    print(report)
    return 0 if agrees else 1


__all__ = ["main", "parser"]
