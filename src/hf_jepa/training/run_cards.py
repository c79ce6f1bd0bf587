"""What a run says about its checkpoint: the model card, its settings, and the fingerprint beside the weights."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from huggingface_hub import EvalResult, ModelCard
from torch import nn
from transformers import Trainer, TrainingArguments

import hf_jepa
from hf_jepa.data.shard_names import names_shards
from hf_jepa.hub.cards import build_card
from hf_jepa.hub.files import new_name
from hf_jepa.hub.fingerprint import in_words, load_target_encoder, write_fingerprint
from hf_jepa.registry import find_variant
from hf_jepa.training.program import whole_models


# Fields of a recipe that say where a run lived, not what it did, or that are nobody else's business.
PRIVATE = ("output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "hub_token", "report_to", "push_to_hub")
# Data sets that the package makes or brings itself, and that no Hub id names.
GENERATED = ("embedded", "moving_digits", "two_rooms", "gripper_scenes", "digit_stories", "regex", "regex_paraphrases")
SETTINGS_FILE = "run.json"
PARTS = ("context_encoder", "predictor")  # whose sizes it names


class RunCardMixin:
    """A `Trainer` whose model card is that of this package, written from the run itself.

    Beside all weights it writes `run.json`, its settings for people and programs: `training_args.bin` is a pickle, and
    the card is there only at the end.

    The class that mixes this in may set `recipe`, the fields that the run was started with (else the card has the
    arguments of the trainer that are not the default), and defines `card_details`, what `build_card` shall say beyond
    what every run can say of itself.
    """

    recipe: dict[str, Any] | None = None
    left_out = "could not be read"  # what the card says of `skipped`
    saves_encoder = True  # whether its checkpoints hold the encoder that users get, of which the fingerprint is

    def card_details(self) -> dict[str, Any]:
        """Arguments of `build_card`: at least `facts` and `unverified`."""
        raise NotImplementedError

    def create_model_card(
        self: Trainer,
        language: str | None = None,
        license: str | None = None,
        tags: str | Sequence[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | None = None,
        dataset_tags: str | Sequence[str] | None = None,
        dataset: str | Sequence[str] | None = None,
        dataset_args: str | None = None,
    ) -> None:
        """Write `README.md` and, where weights are saved, `fingerprint.json` into the output folder.

        `push_to_hub` calls this too.

        Args:
            language, license, tags, model_name, finetuned_from, dataset_tags, dataset: as for `Trainer`.
                `dataset_tags` are Hub ids, `dataset` is how the text calls the data.
            tasks, dataset_args: not used; the variant says the first, the recipe the second.
        """
        if not self.is_world_process_zero():
            return
        model = self.accelerator.unwrap_model(self.model)
        folder = Path(self.args.output_dir)
        name = model_name or self.args.hub_model_id or folder.name
        variant = find_variant(type(model.config).model_type, name)  # an instance may keep that of the file
        details = self.card_details()
        facts = {"Training data": ", ".join(_listed(dataset))} if dataset else {}
        if finetuned_from:
            facts["Starts from"] = f"`{_shown(finetuned_from)}`"
        facts |= details.pop("facts") | self._run_facts()
        if self.saves_encoder and any(folder.glob("model*.safetensors")):
            with whole_models(self.args):  # which ZeRO-3 would cut up, together with the other processes
                found = write_fingerprint(load_target_encoder(variant, folder), folder)
            facts["Fingerprint"] = in_words(found)
        card = build_card(
            variant,
            model.config,
            name,
            facts,
            license,
            repo=self.args.hub_model_id or folder.name,
            recipe=public_recipe(self.recipe or chosen_fields(self.args)),
            measured=f"evaluation of this run at step {self.state.global_step:,}",
            base_model=finetuned_from if finetuned_from and not os.path.exists(finetuned_from) else None,
            starts_from=_shown(finetuned_from),
            datasets=_listed(dataset_tags),
            tags=_listed(tags),
            language=language,
            **details,
        )
        with new_name(folder / "README.md") as path:
            card.save(path)

    def run_settings(self: Trainer) -> dict[str, Any]:
        """What `run.json` holds: arguments without private ones, batch size, masks, and the parts of the model."""
        args, model = self.args, self.accelerator.unwrap_model(self.model)
        teacher = getattr(model.config, "teacher_config", None)
        start = model.name_or_path or getattr(teacher, "name_or_path", "")
        parts = {name: getattr(model, name) for name in PARTS if hasattr(model, name)}
        settings = {
            "model": {
                "class": type(model).__name__,
                "starts_from": _shown(start) or None,
                "parameters": {name: size_of(part.parameters()) for name, part in parts.items()},
            },
            "batch_size": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "max_steps": self.state.max_steps,
            "warmup_steps": args.get_warmup_steps(self.state.max_steps),
            "arguments": public_recipe(args.to_dict()),
        }
        if (sampler := getattr(self, "mask_sampler", None)) is not None:
            fields = asdict(sampler) if is_dataclass(sampler) else {"settings": repr(sampler)}
            settings["masks"] = {"class": type(sampler).__name__} | fields
        return settings

    def _save(self: Trainer, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        with new_name(Path(output_dir or self.args.output_dir) / SETTINGS_FILE) as path:
            path.write_text(json.dumps(self.run_settings(), indent=2, default=str) + "\n", encoding="utf-8")

    def _run_facts(self: Trainer) -> dict[str, str]:
        args, state = self.args, self.state
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        precision = "bfloat16 autocast" if args.bf16 else "float16 autocast" if args.fp16 else "float32"
        sampler = getattr(self, "mask_sampler", None)
        return {
            **({} if sampler is None else {"Mask mode": "official" if "Official" in repr(sampler) else "corrected"}),
            "Optimizer steps": f"{state.global_step:,} of {batch} {self.samples}, {args.world_size} process(es)",
            "Precision of training": precision,
            f"{self.samples.capitalize()} that {self.left_out}": str(len(self.skipped)),
            **{name.capitalize(): text for name, text in self.nonfinite_summary().items()},
            "Software": f"hf_jepa {hf_jepa.__version__}, transformers {transformers.__version__}, "
            f"torch {torch.__version__}",
        }


def public_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """The fields that others need to repeat a run; of local paths only the last part.

    Example:
        >>> public_recipe({"learning_rate": 1e-3, "hub_token": "secret", "output_dir": "/home/me/runs"})
        {'learning_rate': 0.001}
    """
    shown = {name: value for name, value in recipe.items() if name not in PRIVATE}
    return {name: _shown(value) for name, value in shown.items()}


def chosen_fields(args: TrainingArguments) -> dict[str, Any]:
    """Arguments of a trainer that are not the default, as far as YAML can hold them.

    Example:
        >>> from hf_jepa.training.arguments import JepaTrainingArguments
        >>> chosen_fields(JepaTrainingArguments("runs/a", seed=3, use_cpu=True, report_to="none"))["seed"]
        3
    """
    defaults = {each.name: each.default for each in fields(args) if each.init and each.default is not MISSING}
    chosen = {}
    for name, value in args.to_dict().items():
        if name not in defaults or not isinstance(value, bool | int | float | str):
            continue
        default = getattr(defaults[name], "value", defaults[name])
        if value != (False if default is None and value is False else default):  # None becomes False when not chosen
            chosen[name] = value
    return chosen


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(entry) for name, entry in value.items()}
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def base_license(checkpoint: str | None) -> str | None:
    """The licence that the card in a local checkpoint folder names; a derived checkpoint inherits it.

    Raises:
        ValueError: the head of the card is no YAML.
    """
    card = Path(checkpoint or "") / "README.md"
    if not checkpoint or not card.is_file():
        return None
    try:
        return ModelCard.load(card).data.get("license")
    except yaml.YAMLError as error:
        raise ValueError(f"the head of {card} is not valid YAML: {error}. Correct it, or name the licence") from error


@dataclass(kw_only=True)
class LicenseArguments:
    """The licence of a run's weights, for the card. Sub-classes have `model_name_or_path`, where the run begins."""

    license: str | None = field(
        default=None, metadata={"help": "Licence of the weights, for the card; that of the checkpoint unless given."}
    )

    def part(self) -> str | None:
        """The checkpoint that a fresh model has a part of its weights from."""
        return None

    def model_card(self) -> dict[str, str | None]:
        """What the card says of where the weights come from, as arguments of `create_model_card`.

        Raises:
            ValueError: see `base_license`.
        """
        start = self.model_name_or_path
        return {"finetuned_from": start, "license": self.license or base_license(start or self.part())}


def dataset_names(dataset: str) -> dict[str, str]:
    """`dataset` and `dataset_tags` of `create_model_card`: only a Hub id becomes a tag, of a path the last part shows.

    Example:
        >>> dataset_names("ylecun/mnist")
        {'dataset': 'ylecun/mnist', 'dataset_tags': 'ylecun/mnist'}
        >>> dataset_names("embedded"), dataset_names("/data/photos")  # `GENERATED` is no Hub id either
        ({'dataset': 'embedded'}, {'dataset': 'photos'})
    """
    if dataset in GENERATED or os.path.exists(dataset) or os.path.isabs(dataset) or names_shards(dataset):
        return {"dataset": Path(dataset).name}
    return {"dataset": dataset, "dataset_tags": dataset}


def accuracy_results(task: str, dataset: str, split: str, metrics: dict[str, float]) -> list[EvalResult]:
    """Measured accuracies in the form of the Hub's model index."""
    return [
        EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in metrics.items()
    ]


def size_of(parameters: Iterable[nn.Parameter]) -> int:
    """How many values parameters have, also those that are partitioned (DeepSpeed: `ds_numel`).

    Example:
        >>> size_of(nn.Linear(2, 3).parameters())
        9
    """
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)


def trained_of_all(model: nn.Module) -> tuple[int, int]:
    """How many values are trained, and how many there are.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> _ = model.weight.requires_grad_(False)
        >>> trained_of_all(model)
        (3, 9)
    """
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return size_of(trained), size_of(model.parameters())


def _listed(names: str | Sequence[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


__all__ = [
    "GENERATED",
    "SETTINGS_FILE",
    "LicenseArguments",
    "RunCardMixin",
    "accuracy_results",
    "base_license",
    "chosen_fields",
    "dataset_names",
    "public_recipe",
    "size_of",
    "trained_of_all",
]
