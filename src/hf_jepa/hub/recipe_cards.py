"""What is known of the checkpoint that a recipe would make: `python -m hf_jepa.hub.recipe_cards .` writes it down."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from hf_jepa.hub.files import new_name
from hf_jepa.registry import VARIANTS, Variant


RECIPES, CARDS = Path("training_scripts/configs"), Path("model_cards/recipes")
HEADER = "# Written by `python -m hf_jepa.hub.recipe_cards .` from the recipe; edit that, not this file.\n"
OTHERS = ("tiny", "finetune_", "anticipate_", "decoder")  # demonstrations, and what goes on from a checkpoint
TRAINING = (
    "dataset",
    "epoch_length",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "mask_mode",
    "masks",
    "learning_rate",
    "lr_scheduler_type",
    "seed",
)


def from_scratch(path: str | Path) -> bool:
    """Whether a recipe trains a model from random weights at the size of a paper.

    Example:
        >>> from_scratch("training_scripts/configs/ijepa/tiny.yaml")
        False
    """
    path = Path(path)
    return not path.stem.startswith(OTHERS) and "model_name_or_path" not in _read(path)


def recipe_facts(variant: Variant, path: str | Path) -> dict[str, Any]:
    """The facts of `model_cards/recipes` about a recipe.

    Nothing is said that neither the recipe nor the model of that architecture, built without values, says.

    Args:
        variant: that it trains.
        path: of the recipe.
    """
    path, recipe = Path(path), _read(Path(path))
    size, fields = recipe.get("model_size"), recipe.get("model_config") or {}
    precision = "bfloat16 autocast" if recipe.get("bf16") else "float32"
    masks = {"mask_mode": "corrected"} if variant.inputs == "masks" else {}  # the default of the programs
    training = masks | {name: recipe[name] for name in TRAINING if name in recipe}
    facts = {
        "name": f"{variant.name}_{path.stem}",
        "variant": variant.name,
        "verified": False,
        "recipe": (RECIPES / variant.name / path.name).as_posix(),
        "weights_license": {"value": None, "source": "whoever trains it chooses"},
        "architecture": {"source": "recipe", **({"size": size} if size else {}), **fields},
    }
    unverified = ["that the recipe reaches the scores of the paper", "outputs of a checkpoint"]
    if variant.base_model is None:  # the number of its tokens is that of a tokenizer
        unverified.append("the number of parameters")
    else:
        facts["trainable_parameters"] = _counted(variant, size, fields) | {"source": "counted"}
    world = {"value": None, "source": "launch: the batch is per_device_train_batch_size on each process"}
    facts["training"] = {"source": "recipe", **training, "precision": precision, "world_size": world}
    return facts | {"not_verified": unverified}


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _counted(variant: Variant, size: str | None, fields: dict[str, Any]) -> dict[str, int]:
    config_class = variant.config_class()
    config = config_class.from_size(size, **fields) if size else config_class(**fields)
    with torch.device("meta"):
        model = variant.model_class()(config)
    if hasattr(model, "parameter_report"):
        return {each.part: each.trainable for each in model.parameter_report()}
    parts = {"encoder": model.context_encoder, "predictor": getattr(model, "predictor", None)}
    return {
        name: sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad)
        for name, part in parts.items()
        if part is not None
    }


def sources(root: Path) -> dict[Path, str]:
    """The files of `model_cards/recipes`, by their paths in a source checkout, and what they should hold."""
    texts = {}
    for name, variant in VARIANTS.items():
        for path in sorted((root / RECIPES / name).glob("*.yaml")):
            if from_scratch(path):
                facts = yaml.safe_dump(recipe_facts(variant, path), sort_keys=False, allow_unicode=True, width=110)
                texts[CARDS / f"{name}_{path.stem}.yaml"] = HEADER + facts
    return texts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="a source checkout")
    root = parser.parse_args().root
    texts = sources(root)
    if not texts:
        print(f"{root} has no {RECIPES}: name a source checkout", file=sys.stderr)
        return 2
    for path, text in texts.items():
        with new_name(root / path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["from_scratch", "recipe_facts", "sources"]
