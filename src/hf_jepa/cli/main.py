"""`hf-jepa <command>`: finds the module of a command, runs it, and turns wrong input into one line and status 2."""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from hf_jepa.core.arguments import HelpFormatter


# Command -> what it does. The module `hf_jepa.cli.<command>` is imported only when it is asked for, and imports what
# is heavy only when it runs, so that every --help is immediate.
COMMANDS = {
    "quickstart": "pretrain a tiny I-JEPA on bundled photographs, evaluate it, save and reload it, draw pictures",
    "train": "pretrain from a recipe (YAML) with overrides",
    "diagnose": "read a pretraining run and name the likely cause of its trouble, with the evidence",
    "probe": "judge a checkpoint's features by k-NN and a linear probe",
    "embed": "write the features of images or videos to a data set, parquet or safetensors file",
    "masks": "draw context and target masks over an image or a video",
    "estimate": "say how much memory a run takes per GPU, and how its throughput grows with machines",
    "convert": "turn an official checkpoint into an ordinary one, and back",
    "inspect": "show what a folder or an official file holds and check its fingerprint",
    "export": "write a checkpoint as a folder that loads without this package",
    "card": "show the model card of a folder and check it, without a network",
    "push": "check a folder and upload it to the Hub in one commit",
    "verify": "compare a checkpoint, also of the Hub, with its hashes there and with its fingerprint",
    "score": "count the answers of a language model that are right: text, numbers, SQL, letters",
    "geometry": "measure and draw how a language model's embeddings of Text lie to those of Code",
}
# What wrong input raises: values and shapes, files and Hub ids, missing extras. Anything else is a bug.
INPUT_ERRORS = (ValueError, OSError, ImportError)


class Parser(argparse.ArgumentParser):
    """An argument parser that explains an error in one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of the command line.

    Args:
        argv: the arguments without the program's name; those of the process unless given.

    Returns:
        The exit status: 0, 1 where a command's own check fails, 2 for wrong input, 130 and 143 where it was stopped.

    Example:
        >>> main(["masks", "no-such-picture.jpg"])
        2
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    show_traceback = "--traceback" in argv[:1]
    argv = argv[show_traceback:]
    if not argv or argv[0] not in COMMANDS:
        return _without_command(argv)
    name, rest = argv[0], argv[1:]
    try:
        with _sigterm_exits():
            return import_module(f"hf_jepa.cli.{name}").main(rest)
    except KeyboardInterrupt:
        print(f"hf-jepa {name}: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:  # SIGTERM; argparse: --help, or an error that it has explained
        return stop.code or 0
    except Exception as error:
        if show_traceback or not _is_input_error(error):
            raise
        print(f"hf-jepa {name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Let SIGTERM end a command as an exception does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():  # only that one may change what a signal does
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)  # None: it was not one of Python


def _without_command(argv: list[str]) -> int:
    parser = Parser(
        prog="hf-jepa",
        usage="hf-jepa [--version] [--traceback] <command> ...",
        description="Joint-Embedding Predictive Architectures as ordinary Hugging Face models.",
        epilog="commands:\n"
        + "".join(f"  {name:12}{summary}\n" for name, summary in COMMANDS.items())
        + "\n`hf-jepa <command> --help` explains a command.\n"
        "example: hf-jepa train ijepa training_scripts/configs/ijepa/tiny.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--traceback", action="store_true", help="before a command: show where wrong input was found")
    try:
        args, unknown = parser.parse_known_args(argv)
        if unknown:
            parser.error(f"unknown command {unknown[0]!r}: choose one of {', '.join(COMMANDS)}")
        if args.version:
            from hf_jepa import __version__

            print(f"hf_jepa {__version__}")
            return 0
        parser.error(f"name a command: {', '.join(COMMANDS)}")
    except SystemExit as stop:
        return stop.code or 0


def _is_input_error(error: Exception) -> bool:
    if isinstance(error, INPUT_ERRORS):
        return True
    # safetensors reports a truncated or foreign file, and configs wrong fields, by exception classes of their own.
    return type(error).__name__.startswith(("SafetensorError", "StrictDataclass"))


def command_parser(name: str, description: str, example: str) -> Parser:
    """The parser of a command; its description is the summary of the command and what there is to add.

    Example:
        >>> command_parser("masks", "More.", "hf-jepa masks photo.jpg").prog
        'hf-jepa masks'
    """
    summary = COMMANDS[name]
    return Parser(
        prog=f"hf-jepa {name}",
        description=f"{summary[0].upper()}{summary[1:]}. {description}".strip(),
        epilog=f"example: {example}",
        formatter_class=HelpFormatter,
    )


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """What `embed` and `probe` can say about how features are extracted."""
    parser.add_argument(
        "--readout",
        choices=("mean", "last4_mean_concat", "mean_std", "max", "pooled"),
        help="how the tokens of an image or clip become one vector (default: as the encoder was trained, else mean)",
    )
    parser.add_argument(
        "--layers",
        type=int,
        nargs="+",
        metavar="LAYER",
        help="read these layers, whose features stand side by side; -1 is the last (default: -1)",
    )
    parser.add_argument("--batch-size", type=int, help="samples per step (default: 64 images, 8 videos)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read the data; 0: this one")
    parser.add_argument(
        "--saved-processor",
        action="store_true",
        help="prepare images as the file beside the weights says, even where that is not how they were trained",
    )
    parser.add_argument("--onednn", action="store_true", help="CPU: twice as fast on AMD, equal to rounding")
    clips = parser.add_argument_group("clips of videos")
    clips.add_argument("--frames", type=int, help="frames of a clip (default: those of the checkpoint)")
    distance = clips.add_mutually_exclusive_group()
    distance.add_argument("--fps", type=float, help="frames of a clip per second of the video (default: 4)")
    distance.add_argument("--frame-step", type=int, help="or their distance in frames of the video")
    distance.add_argument("--duration", type=float, help="or the seconds that a clip covers")
    clips.add_argument("--clips", type=int, help="clips per video, whose features are averaged (default: 1)")
    clips.add_argument(
        "--short-videos",
        choices=("refuse", "pad"),
        help="name and skip them, or repeat the last frame (default: refuse)",
    )
    clips.add_argument("--folder-fps", type=float, help="frames per second of folders of frames, which do not know it")


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["COMMANDS", "add_encoder_options", "command_parser", "main"]
