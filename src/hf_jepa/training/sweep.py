"""A run for every value of one field: which weight of the regulariser, which learning rate?"""

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from tqdm.auto import tqdm

from hf_jepa.core.configuration import require_model_fields
from hf_jepa.registry import VARIANTS
from hf_jepa.training.comparison import Comparison, judge, markdown_table
from hf_jepa.training.kept import kept, write_text
from hf_jepa.training.pretrain_image import EMBEDDED, pretrain, recipe_sections
from hf_jepa.training.recipe import given_fields, parse_recipe
from hf_jepa.training.reports import last_logged


HEADER = ("prediction loss", "regularisation loss", "RankMe", "k-NN", "monitor")
CRITERION = (
    "the highest k-NN accuracy among the runs that the collapse monitor calls healthy, or without --knn the highest "
    "RankMe among them; losses of different values are different losses"
)


def sweep(variant_name: str, argv: Sequence[str], field: str, values: Sequence[str], knn: bool) -> dict[str, Any]:
    """Pretrain once for every value of a field; writes sweep.md and sweep.json to the recipe's output folder.

    Args:
        variant_name: key of `VARIANTS`.
        argv: `[recipe.yaml] [--field value ...]`, as for `pretrain`.
        field: of the recipe, or of the config of the model.
        values: as a recipe spells them. Runs that are in the folder already, with the same recipe, are kept.
        knn: measure k-NN accuracy after every run, on crops of the training halves of the embedded pictures.

    Returns:
        "field", "rows" (one for each value), "best" (a value, None if no run is healthy) and "criterion".

    Raises:
        ValueError: an unknown field; a value twice; k-NN on other data, for which a recipe has `knn_dataset`.
    """
    variant = VARIANTS[variant_name]
    types = recipe_sections(variant)
    arguments, _, training = parse_recipe(types, argv)
    config = dict(arguments.model_config or {})
    in_recipe = field in {each.name for section in types for each in fields(section)}
    if not in_recipe:
        require_model_fields(variant.config_class(), [field])
    if len(set(values)) < len(values):
        raise ValueError(f"values of {field} are there twice: {' '.join(values)}")
    if knn and arguments.dataset != EMBEDDED:
        raise ValueError(f"--knn is for dataset '{EMBEDDED}'; for {arguments.dataset} set --knn_dataset in the recipe")
    folder, rows = Path(training.output_dir), []
    for value in tqdm(values, desc=f"sweep of {field}", unit="run"):
        place = folder / f"{field}={value.replace('/', '-')}"
        given = ["--output_dir", str(place)]
        given += [f"--{field}", value] if in_recipe else []
        if not in_recipe:
            given += ["--model_config", json.dumps(config | {field: yaml.safe_load(value)})]
        settings = given_fields(types, [*argv, *given]) | {"knn": knn}
        make = partial(_run, variant_name, [*argv, *given], knn)
        result = kept(place, settings, make, say=tqdm.write)
        rows.append({"value": value} | result)
    results = {"field": field, "rows": rows, "best": best(rows), "criterion": CRITERION}
    write_text(folder / "sweep.json", json.dumps(results, indent=2) + "\n")
    write_text(folder / "sweep.md", f"{markdown_table(*table_of(results))}\nBest (\\*): {CRITERION}.\n")
    return results


def _run(variant_name: str, argv: Sequence[str], knn: bool) -> dict[str, Any]:
    with contextlib.redirect_stdout(sys.stderr):  # the table is what is printed
        trainer = pretrain(variant_name, argv)
    logged = last_logged(trainer.state.log_history)
    logged |= trainer.summary()  # the signals of the last step, which need not be one that is logged
    found = {
        "prediction_loss": logged.get("prediction_loss", logged.get("loss")),
        "regularization_loss": logged.get("regularization_loss"),
        "rankme": logged.get("rankme"),
        "knn": logged.get("knn_accuracy"),
        "verdict": logged.get("verdict", "unknown"),
    }
    if knn:
        shared = Comparison(image_size=trainer.model.config.image_size, validate=True)
        found["knn"] = judge(trainer.model.feature_encoder, shared.labelled(trainer.args.seed))["knn"]
    return found


def best(rows: Sequence[dict[str, Any]]) -> str | None:
    """The value of the best run by `CRITERION`; None if none is healthy.

    Example:
        >>> rows = [{"value": "0.1", "rankme": 9.0, "knn": None, "verdict": "healthy"},
        ...         {"value": "0.2", "rankme": 12.0, "knn": None, "verdict": "healthy"}]
        >>> best(rows)
        '0.2'
    """
    healthy = [row for row in rows if row["verdict"] == "healthy"]
    by = "knn" if all(row["knn"] is not None for row in rows) else "rankme"
    return max(healthy, key=lambda row: row[by])["value"] if healthy else None


def table_of(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of a sweep; the best value has a star.

    Example:
        >>> row = {"value": "0.1", "prediction_loss": 0.5, "regularization_loss": None, "rankme": 9.0, "knn": None}
        >>> table_of({"field": "lr", "rows": [row | {"verdict": "healthy"}], "best": "0.1"})[1]
        [['0.1 *', '0.5', '-', '9', '-', 'healthy']]
    """
    lines = []
    for row in results["rows"]:
        numbers = [row[name] for name in ("prediction_loss", "regularization_loss", "rankme", "knn")]
        cells = ["-" if number is None else f"{number:.4g}" for number in numbers]
        lines.append([row["value"] + " *" * (row["value"] == results["best"]), *cells, row["verdict"]])
    return [results["field"], *HEADER], lines


__all__ = ["CRITERION", "best", "sweep", "table_of"]
