"""`hf-jepa push`: a checked folder becomes one commit on the Hub."""

import argparse
import sys
from pathlib import Path

from hf_jepa.cli.main import command_parser


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "push",
        "The folder must hold a checkpoint of a variant whose values are finite and whose fingerprint agrees, and a "
        "model card with a licence; what else `hf-jepa card` would say of it is told. What a run left beside it (its "
        "own checkpoints, pickles, logs) stays behind. The token is that of `hf auth login` or HF_TOKEN.",
        "hf-jepa push runs/converted me/ijepa-vith14 --private",
    )
    parser.add_argument("folder", type=Path, help="folder of the checkpoint")
    parser.add_argument("repo", help="owner/name on the Hub; made if there is none")
    parser.add_argument("--private", action="store_true", help="only for its owner; refused where it is public")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--revision", help="branch, made if there is none (default: the main one)")
    where.add_argument("--pr", action="store_true", help="propose the commit as a pull request")
    parser.add_argument("--message", help="of the commit (default: the name of the folder)")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from hf_jepa.hub.publish import publish

    commit, contents, card_faults = publish(
        args.folder,
        args.repo,
        private=args.private or None,
        revision=args.revision,
        pull_request=args.pr,
        message=args.message,
    )
    print(f"files: {', '.join(contents.files)}")
    if contents.left_out:
        print(f"left out: {', '.join(contents.left_out)}")
    for fault in card_faults:
        print(f"{args.folder / 'README.md'}: {fault}", file=sys.stderr)
    print(commit.pr_url or commit.commit_url)
    return 0


__all__ = ["main", "parser"]
