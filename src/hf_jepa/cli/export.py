"""`hf-jepa export`: a checkpoint as a folder that loads without this package."""

import argparse
from pathlib import Path

from hf_jepa.cli.main import command_parser


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "export",
        "Either the whole checkpoint together with the code of its classes, or one encoder as a model of stock "
        "transformers, for the variants whose architecture transformers has. Card, processor, tokenizer and "
        "fingerprint come along; what was written is loaded again and compared.",
        "hf-jepa export runs/ijepa --output runs/ijepa-anywhere --remote-code",
    )
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="folder of a model")
    parser.add_argument("--output", type=Path, required=True, help="new or empty folder")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--remote-code",
        action="store_true",
        help="add the code of the classes, for from_pretrained(..., trust_remote_code=True)",
    )
    kind.add_argument("--encoder-only", action="store_true", help="one encoder, as a model of stock transformers")
    parser.add_argument(
        "--encoder",
        choices=("target", "context"),
        default=argparse.SUPPRESS,
        help="with --encoder-only: which one (default: the one that gives features, in most variants the target "
        "encoder)",
    )
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    encoder = getattr(args, "encoder", None)
    if args.remote_code and encoder is not None:
        raise ValueError("--encoder goes with --encoder-only; --remote-code keeps all parts of the checkpoint")

    from hf_jepa.hub.export import export_remote_code
    from hf_jepa.hub.export_encoder import export_encoder

    if args.remote_code:
        print(export_remote_code(args.checkpoint, args.output))
    else:
        print(export_encoder(args.checkpoint, args.output, encoder))
    return 0


__all__ = ["main", "parser"]
