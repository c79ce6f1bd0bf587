"""What the fine-tuning programs of all modalities share: recipe and checkpoint in, trained classifier out."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Subset
from transformers import AutoConfig, PreTrainedConfig, TrainingArguments
from transformers.utils import is_matplotlib_available, logging

from hf_jepa.data.columns import check_same_classes
from hf_jepa.evaluation.low_shot import low_shot_indices
from hf_jepa.hub.files import new_name
from hf_jepa.hub.processors import load_processor
from hf_jepa.hub.run_folders import require_finished
from hf_jepa.registry import find_variant
from hf_jepa.training.adapters import LoraArguments
from hf_jepa.training.finetuning import (
    MODES,
    ClassificationTrainer,
    FineTuningArguments,
    load_classifier,
    prepare_mode,
    require_mergeable,
)
from hf_jepa.training.program import begin, finish, run_training, whole_models
from hf_jepa.training.recipe import given_fields, parse_recipe
from hf_jepa.training.reports import format_table
from hf_jepa.training.run_cards import LicenseArguments, dataset_names
from hf_jepa.training.shards import ShardArguments


logger = logging.get_logger(__name__)

OpenSplit = Callable[[str, bool], Dataset]  # (split, whether it is for training) -> labelled data


@dataclass(kw_only=True)
class ModeArguments(LoraArguments, LicenseArguments):
    """What of a checkpoint is trained."""

    mode: str = field(default="full", metadata={"help": f"What is trained: {', '.join(MODES)}.", "choices": MODES})
    lora_rank: int = field(default=8, metadata={"help": "Rank of the adapters of mode=lora."})

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model with what the mode trains, see `prepare_mode`."""
        return prepare_mode(model, self.mode, self.lora_rank, self.lora_alpha, self.lora_dropout)


def open_checkpoint(
    types: Sequence[type], argv: Sequence[str], description: str | None
) -> tuple[Any, FineTuningArguments, PreTrainedConfig, Any]:
    """How every fine-tuning program of images and videos begins.

    Args:
        types: the sections of the recipe, of which the first is a `ModeArguments` with `model_name_or_path`.
        argv, description: as of `parse_recipe`.

    Returns:
        the two sections, the config of the checkpoint, and its processor.

    Raises:
        ValueError: see `require_mergeable`.
    """
    arguments, training = parse_recipe(types, argv, description)
    require_mergeable(arguments.mode, training)
    begin(training)
    require_finished(arguments.model_name_or_path)
    config = AutoConfig.from_pretrained(arguments.model_name_or_path)
    return arguments, training, config, load_processor(arguments.model_name_or_path, config)


@dataclass
class CommonClassificationArguments(ModeArguments, ShardArguments):
    """Checkpoint, data and mode of a fine-tuning run, whatever the modality."""

    model_name_or_path: str = field(metadata={"help": "Hub id or folder: pretrained, encoder-only or a classifier."})
    dataset: str = field(metadata={"help": "Where the labelled data is."})
    train_split: str = field(default="train", metadata={"help": 'Split to train on, also "train[:90%%]".'})
    eval_split: str = field(default="test", metadata={"help": "Split to measure on."})
    eval_fraction: float | None = field(
        default=None, metadata={"help": "Hold out this share of each class of the training split instead."}
    )
    label_column: str | None = field(default=None, metadata={"help": "Column of labels; folder names, or found."})
    train_fraction: float | None = field(
        default=None, metadata={"help": "Low-shot: share of each class (1 %%: 0.01)."}
    )
    train_per_class: int | None = field(default=None, metadata={"help": "Low-shot: images of each class."})

    def __post_init__(self):
        if self.train_fraction is not None and self.train_per_class is not None:
            raise ValueError("train_fraction and train_per_class are two ways to choose: drop one")


def require_labels(dataset: Any, source: str, split: str) -> Any:
    """The data set, where every row has a label.

    Raises:
        ValueError: the data has no labels, or unlabelled rows.
    """
    if dataset.labels is None:
        raise ValueError(f"{source} has no labels: name their column by label_column")
    if wrong := [row for row, label in enumerate(dataset.labels) if label is None or label < 0]:
        raise ValueError(f"{len(wrong)} rows of split {split!r} have no label, the first is row {wrong[0]}")
    return dataset


def build_datasets(
    arguments: CommonClassificationArguments, open_split: OpenSplit, seed: int
) -> tuple[Dataset, Dataset, list[str]]:
    """Training data, evaluation data and the names of their classes.

    Args:
        arguments: of the run.
        open_split: gives a labelled split, for training or for measuring.
        seed: of the choice of rows.

    Raises:
        ValueError: fewer than two classes, splits that number them differently, a class that training lacks.
    """
    train = open_split(arguments.train_split, True)
    labels = torch.tensor(train.labels)
    if len(labels.unique()) < 2:
        raise ValueError(f"{arguments.train_split!r} holds one class only: there is nothing to tell apart")
    chosen = torch.arange(len(labels))
    names = train.class_names or [str(number) for number in range(int(labels.max()) + 1)]
    if arguments.eval_fraction is not None:
        if not 0 < arguments.eval_fraction < 1:
            raise ValueError(f"eval_fraction={arguments.eval_fraction} is not between 0 and 1")
        held_out = low_shot_indices(labels, fraction=arguments.eval_fraction, seed=seed)
        source = open_split(arguments.train_split, False)
        test = Subset(source, held_out.tolist())
        chosen = chosen[~torch.isin(chosen, held_out)]
        if lost := sorted(set(labels.tolist()) - set(labels[chosen].tolist())):
            raise ValueError(
                f"eval_fraction={arguments.eval_fraction} holds out all samples of {[names[c] for c in lost[:5]]}: "
                "they are too few to train and to measure on"
            )
    else:
        test = open_split(arguments.eval_split, False)
        check_same_classes(arguments.train_split, train.class_names, arguments.eval_split, test.class_names)
        if unseen := sorted(set(test.labels) - set(train.labels)):
            shown = [names[label] if label < len(names) else label for label in unseen[:5]]
            raise ValueError(f"classes {shown} of {arguments.eval_split!r} do not occur in {arguments.train_split!r}")
    if arguments.train_fraction is not None or arguments.train_per_class is not None:
        few = low_shot_indices(labels[chosen], arguments.train_fraction, arguments.train_per_class, seed)
        chosen = chosen[few]
    if len(chosen) < len(labels):
        train = _EpochSubset(train, chosen.tolist())
    return train, test, names


class _EpochSubset(Subset):
    """A subset that passes the epoch on, so that random crops change from epoch to epoch."""

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


def write_confusion(counts: list[list[int]], class_names: list[str], folder: Path) -> list[str]:
    """Write `confusion.csv` and, where matplotlib is installed, `confusion.png`; their names."""
    with new_name(folder / "confusion.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        rows = [["true \\ predicted", *class_names]]
        rows += [[name, *row] for name, row in zip(class_names, counts, strict=True)]
        csv.writer(file).writerows(rows)
    if not is_matplotlib_available():
        logger.warning('no confusion.png: drawing needs matplotlib (pip install "hf_jepa[viz]")')
        return ["confusion.csv"]
    from hf_jepa.visualization.confusion import draw_confusion

    draw_confusion(counts, folder / "confusion.png", class_names)
    return ["confusion.csv", "confusion.png"]


def finetune(
    arguments: CommonClassificationArguments,
    training: TrainingArguments,
    recipe: tuple[Sequence[type], Sequence[str]],
    config: PreTrainedConfig,
    processor: Callable,
    open_split: OpenSplit,
    data_collator: Callable,
    model_fields: dict[str, Any] | None = None,
) -> ClassificationTrainer:
    """Train, measure and save a classifier.

    Args:
        arguments, training: the sections of the recipe.
        recipe: their classes, and the arguments they were read from.
        config: of the checkpoint.
        processor: saved beside the weights.
        open_split: gives the data.
        data_collator: makes batches, with rows for what cannot be read.
        model_fields: config fields of the classifier that differ from those of the checkpoint.

    Returns:
        the trainer, after training, measuring and saving.

    Raises:
        ValueError: as the parts do.
    """
    checkpoint, card = arguments.model_name_or_path, arguments.model_card()  # whose errors come before the training
    train, test, class_names = build_datasets(arguments, open_split, training.seed)
    variant = find_variant(config.model_type, checkpoint)
    with whole_models(training):
        model = load_classifier(variant, checkpoint, class_names, arguments.mode, **(model_fields or {}))
    trainer = ClassificationTrainer(
        arguments.prepare(model),
        training,
        (dataset_names(arguments.dataset)["dataset"], "held out" if arguments.eval_fraction else arguments.eval_split),
        train_dataset=train,
        eval_dataset=test,
        data_collator=data_collator,
        processing_class=processor,
    )
    run_training(trainer, given_fields(*recipe))
    trainer.merge_adapters()
    trainer.save_model()  # what comes now may fail, and must not take the training with it
    metrics = trainer.evaluate()  # of the weights that are saved
    folder = Path(training.output_dir)
    if trainer.is_world_process_zero():
        trainer.save_metrics("eval", metrics)
        files = write_confusion(trainer.classification.confusion, class_names, folder)
        shown = {name.removeprefix("eval_"): metrics[name] for name in ("eval_top1", "eval_top5") if name in metrics}
        measured = sum(map(sum, trainer.classification.confusion))
        print(format_table({"samples measured": measured} | shown | {"confusion": ", ".join(files)}))
    finish(trainer, dataset_names(arguments.dataset) | card)
    return trainer


__all__ = [
    "CommonClassificationArguments",
    "ModeArguments",
    "build_datasets",
    "finetune",
    "open_checkpoint",
    "require_labels",
    "write_confusion",
]
