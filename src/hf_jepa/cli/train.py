"""`hf-jepa train`: a pretraining run on this machine; `accelerate launch training_scripts/...` is for many devices."""

import argparse
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
    trained = sorted(name for name, variant in VARIANTS.items() if program(variant) is not None)
    parser.add_argument("variant", choices=trained, help="what to pretrain")
    return parser


def program(variant: Variant) -> str | None:
    """The module with the training program of the variant, or else of its modality; None where there is none."""
    own, shared = (f"hf_jepa.training.pretrain_{name}" for name in (variant.name, variant.modality))
    if variant.program is not None:
        own = f"hf_jepa.training.{variant.program}"
    return next((module for module in (own, shared) if find_spec(module) is not None), None)


def main(argv: list[str]) -> int:
    variant = parser().parse_args(argv[:1]).variant  # what follows it is the recipe's
    module = import_module(program(VARIANTS[variant]))
    run = getattr(module, "finetune" if VARIANTS[variant].program else "pretrain")
    several = module.__name__.endswith(f"pretrain_{VARIANTS[variant].modality}")  # and wants to know which it is
    run(*([variant] if several else []), argv[1:], parser().description, prog=f"hf-jepa train {variant}")
    return 0


__all__ = ["main", "parser"]
