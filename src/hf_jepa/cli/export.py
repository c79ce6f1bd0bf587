"""`hf-jepa export`: a checkpoint as a folder that loads without this package."""

import argparse
from pathlib import Path

from hf_jepa.cli.main import command_parser


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "export",
        "Either the whole checkpoint together with the code of its classes; or one encoder as a model of stock "
        "transformers, for the variants whose architecture transformers has; or the encoder as a graph. Card, "
        "processor, tokenizer and fingerprint come along; what was written is loaded again and compared.",
        "hf-jepa export runs/ijepa --output runs/ijepa-anywhere --remote-code",
    )
    parser.add_argument("folder", type=Path, help="folder of a checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="new or empty folder")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--remote-code",
        action="store_true",
        help="add the code of the classes, for from_pretrained(..., trust_remote_code=True)",
    )
    kind.add_argument("--encoder-only", action="store_true", help="one encoder, as a model of stock transformers")
    kind.add_argument(
        "--onnx", action="store_true", help='the encoder as model.onnx, for onnxruntime; needs "hf_jepa[onnx]"'
    )
    kind.add_argument("--graph", action="store_true", help="the encoder as model.pt2, for torch.export.load")
    parser.add_argument(
        "--encoder",
        choices=("target", "context"),
        help="with --encoder-only: which one (default: the one that gives features, in most variants the target "
        "encoder)",
    )
    parser.add_argument(
        "--any-size",
        action="store_true",
        help="with --onnx and --graph: any height and width that fill whole patches, not only those of the config",
    )
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.encoder is not None and not args.encoder_only:
        raise ValueError(
            "--encoder goes with --encoder-only; --remote-code keeps all parts of the checkpoint, a graph is of the "
            "encoder that gives features"
        )
    if args.any_size and not (args.onnx or args.graph):
        raise ValueError("--any-size goes with --onnx and --graph; a model takes any size as it is")

    if args.remote_code:
        from hf_jepa.hub.export import export_remote_code

        print(export_remote_code(args.folder, args.output))
    elif args.encoder_only:
        from hf_jepa.hub.export_encoder import export_encoder

        print(export_encoder(args.folder, args.output, args.encoder))
    else:
        from hf_jepa.hub.export_graph import export_graph

        kind = "onnx" if args.onnx else "torch"
        print(export_graph(args.folder, args.output, kind, any_size=args.any_size))
    return 0


__all__ = ["main", "parser"]
