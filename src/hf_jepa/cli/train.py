"""`hf-jepa train`: a pretraining run on this machine; `accelerate launch training_scripts/...` is for many devices."""

import argparse
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from hf_jepa.cli.main import command_parser
from hf_jepa.registry import VARIANTS, Variant


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "train",
        "Recipes are in training_scripts/configs/<variant> of the source tree; `hf-jepa train ijepa --help` lists all "
        "fields that a recipe or the command line can set, those of this package first. --resume_from_checkpoint auto "
        "goes on with a run that was stopped. On many devices: accelerate launch training_scripts/pretrain_image.py "
        "(or pretrain_vjepa.py, pretrain_world_model.py) VARIANT RECIPE ...",
        "hf-jepa train ijepa training_scripts/configs/ijepa/tiny.yaml --output_dir runs/tiny --max_steps 20",
    )
    parser.usage = "hf-jepa train [--help] variant [recipe.yaml] [--field value ...]"
    parser.add_argument("variant", choices=sorted(VARIANTS), help="what to pretrain")
    return parser


def program(variant: Variant) -> Callable:
    """The training program of the variant (also a `pretrain_<variant>` of its own), or of its modality.

    Raises:
        ValueError: there is none.
    """
    if variant.program is not None:
        finetune = import_module(f"hf_jepa.training.{variant.program}").finetune
        return lambda name, *args, **kwargs: finetune(*args, **kwargs)
    own = f"hf_jepa.training.pretrain_{variant.name}"
    if find_spec(own) is not None:
        pretrain = import_module(own).pretrain
        return lambda name, *args, **kwargs: pretrain(*args, **kwargs)
    name = f"hf_jepa.training.pretrain_{variant.modality}"
    if find_spec(name) is None:
        raise ValueError(
            f"{variant.title} is of modality {variant.modality!r}, which has no program: {name} is missing"
        )
    return import_module(name).pretrain


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv[:1])  # what follows the variant is the recipe's
    pretrain = program(VARIANTS[args.variant])
    pretrain(args.variant, argv[1:], parser().description, prog=f"hf-jepa train {args.variant}")
    return 0


__all__ = ["main", "parser"]
