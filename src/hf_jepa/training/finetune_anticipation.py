"""The program behind the script of action anticipation: recipe and checkpoint in, trained model out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import EvalPrediction

from hf_jepa.core.video_classification import QUESTIONS
from hf_jepa.data.actions import ActionClasses, ActionCollator, ActionDataset, DigitActions, read_actions
from hf_jepa.data.video_transforms import clip_pretraining_transform
from hf_jepa.evaluation.recall import ClassMeanRecall
from hf_jepa.hub.files import new_name
from hf_jepa.hub.processors import ProcessedClip, pixel_statistics
from hf_jepa.losses.focal import sigmoid_focal_loss
from hf_jepa.registry import find_variant
from hf_jepa.training.classification import ModeArguments, open_checkpoint
from hf_jepa.training.finetune_video import VIEW_RATIO
from hf_jepa.training.finetuning import MODES, FineTuningArguments, FineTuningTrainer
from hf_jepa.training.program import finish, run_training, whole_models
from hf_jepa.training.recipe import given_fields
from hf_jepa.training.reports import format_table
from hf_jepa.training.run_cards import dataset_names
from hf_jepa.training.video_sources import DIGITS


TOP = 5  # guesses that count, of verb, noun and action


@dataclass(kw_only=True)
class AnticipationArguments(ModeArguments):
    """Checkpoint, data and mode of an anticipation run."""

    model_name_or_path: str = field(metadata={"help": "Hub id or folder of a V-JEPA 2 with its predictor."})
    dataset: str = field(metadata={"help": f"Folder of the videos, or '{DIGITS}' (generated)."})
    train_table: str | None = field(
        default=None, metadata={"help": "csv of actions to train on (EPIC-Kitchens form)."}
    )
    eval_table: str | None = field(default=None, metadata={"help": "csv of actions to measure on."})
    mode: str = field(default="probe", metadata={"help": f"What is trained: {', '.join(MODES)}.", "choices": MODES})
    anchor: str = field(
        default="start", metadata={"help": "Clips end before the action's 'start', or where the 'official' code ends."}
    )
    frames_per_clip: int = field(default=32, metadata={"help": "Frames that are seen."})
    fps: float = field(default=8.0, metadata={"help": "Frames of a clip per second."})
    generated_length: int = field(default=320, metadata={"help": f"Clips per split of '{DIGITS}'."})
    crop_scale: list[float] = field(default_factory=lambda: [0.08, 1.0], metadata={"help": "Area of a random crop."})
    mask_index: int = field(default=1, metadata={"help": "Learnt mask token; 0 for models pretrained on one length."})
    num_pooler_layers: int | None = field(default=None, metadata={"help": "Self-attention layers of the probe."})

    def __post_init__(self):
        if self.anchor not in ("start", "official"):
            raise ValueError(f"anchor={self.anchor!r} is not one of start, official")
        tables = (self.train_table, self.eval_table)
        if self.dataset != DIGITS and None in tables:
            raise ValueError("train_table and eval_table say what is done when in the videos: give both")


class AnticipationTrainer(FineTuningTrainer):
    """Trains a `VJepa2ForActionAnticipation` on batches of an `ActionCollator`.

    Measures class-mean recall and accuracy of the first five guesses for every question; only classes that occur in
    the evaluation data are guessed, as in the official protocol.

    Args:
        model: from `prepare_mode`.
        args: `FineTuningArguments`.
        forward_options: what is passed to every forward: `frames_per_second`, `mask_index`.
        measured_on: name of the data and of its split, for the card.
        kwargs: as for `Trainer`.
    """

    samples = "clips"

    def __init__(
        self,
        model: nn.Module,
        args: FineTuningArguments,
        forward_options: dict[str, Any],
        measured_on: tuple[str, str] = ("unnamed data", "held out"),
        **kwargs: Any,
    ):
        self.forward_options, self.measured_on = forward_options, measured_on
        self.questions = [name for name in QUESTIONS if getattr(model.config, f"num_{name}s")]
        args.label_names = [f"{name}_labels" for name in self.questions]
        super().__init__(model=model, args=args, compute_metrics=self._recall, **kwargs)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        inputs = self.take_skipped(inputs, kept=True) if "sample_index" in inputs else dict(inputs)
        inputs.pop("sample_index", None)
        return super().compute_loss(model, inputs | self.forward_options, return_outputs, num_items_in_batch)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(self.take_skipped(inputs, kept=True))
        inputs.pop("sample_index")
        labels = tuple(inputs.pop(name) for name in self.args.label_names)
        clips = {name: inputs[name] for name in ("pixel_values_videos", "anticipation_times")}
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**clips, **self.forward_options)
        return None, tuple(outputs[f"{name}_logits"].float() for name in self.questions), labels

    def _recall(self, measured: EvalPrediction) -> dict[str, float]:
        several = len(self.questions) > 1
        all_logits = measured.predictions if several else (measured.predictions,)
        all_labels = measured.label_ids if several else (measured.label_ids,)
        metrics: dict[str, float] = {}
        loss = 0.0
        for name, logits, labels in zip(self.questions, all_logits, all_labels, strict=True):
            logits, labels = torch.from_numpy(np.asarray(logits)), torch.from_numpy(np.asarray(labels))
            if not (known := labels != -100).any():
                raise ValueError("none of the evaluation clips can be read")
            occurring = labels[known].unique()
            guesses = max(1, min(TOP, len(occurring) - 1))  # as many guesses as classes would always be right
            counter = ClassMeanRecall(logits.shape[1], guesses, valid_classes=occurring)
            counter.add(logits, labels)
            found = counter.compute()
            metrics |= {f"{name}_recall{counter.k}": found["recall"], f"{name}_top{counter.k}": found["accuracy"]}
            loss += sigmoid_focal_loss(logits, labels).item() / int(known.sum())
        return {"loss": loss} | metrics

    def card_details(self) -> dict[str, Any]:
        logged = next((entry for entry in reversed(self.state.log_history) if "eval_loss" in entry), {})
        data, split = self.measured_on
        scores = {name.removeprefix("eval_"): value for name, value in logged.items() if "_recall" in name}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items()) or "not measured"
        return {
            "task": "action-anticipation",
            "facts": {f"Class-mean recall on {data}, {split}": shown},
            "unverified": "Other data than the one named above was not tried.",
        }


def open_data(
    arguments: AnticipationArguments, processor: Any, config: Any, seed: int
) -> tuple[Dataset, Dataset, dict[str, int], dict[str, list] | None]:
    """Training data, evaluation data, how many verbs, nouns and actions there are, and which."""
    if arguments.dataset == DIGITS:
        size = (arguments.generated_length, "train", arguments.frames_per_clip, arguments.fps)
        train = DigitActions(*size, train=True, seed=seed)
        test = DigitActions(size[0], "test", *size[2:], seed=seed)
        return train, test, dict(DigitActions.num_classes), None
    tables = [read_actions(table, arguments.dataset) for table in (arguments.train_table, arguments.eval_table)]
    classes = ActionClasses([action for table in tables for action in table])
    mean, std = pixel_statistics(processor)
    crop = clip_pretraining_transform(
        config.crop_size,
        scale=tuple(arguments.crop_scale),
        ratio=VIEW_RATIO,
        horizontal_flip=False,
        antialias=True,
        mean=mean,
        std=std,
    )
    options = {"frames_per_clip": arguments.frames_per_clip, "fps": arguments.fps, "anchor": arguments.anchor}
    train = ActionDataset(tables[0], classes, crop, train=True, seed=seed, **options)
    test = ActionDataset(tables[1], classes, ProcessedClip(processor), seed=seed, **options)
    counts = {"verb": len(classes.verbs), "noun": len(classes.nouns), "action": len(classes.actions)}
    return train, test, counts, classes.to_dict()


def finetune(argv: Sequence[str], description: str | None = None) -> AnticipationTrainer:
    """Run a recipe.

    Args:
        argv: `[recipe.yaml] [--field value ...]`, fields of `AnticipationArguments` and `FineTuningArguments`.
        description: for `--help`.

    Returns:
        the trainer, after training, measuring and saving.

    Raises:
        ValueError: a checkpoint of another variant, as the parts do.
    """
    types = (AnticipationArguments, FineTuningArguments)
    arguments, training, config, processor = open_checkpoint(types, argv, description)
    checkpoint, card = arguments.model_name_or_path, arguments.model_card()  # whose errors come before the training
    variant = find_variant(config.model_type, checkpoint)
    if "anticipation" not in variant.parts:
        raise ValueError(f"{variant.title} has no class for action anticipation: {checkpoint} must be a V-JEPA 2")
    train, test, counts, classes = open_data(arguments, processor, config, training.seed)
    (name,) = variant.parts["anticipation"]
    fields = {f"num_{kind}s": count for kind, count in counts.items()}
    if arguments.num_pooler_layers is not None:
        fields["num_pooler_layers"] = arguments.num_pooler_layers
    with whole_models(training):
        model, report = getattr(variant.module("anticipation"), name).from_pretrained(
            checkpoint, dtype=torch.float32, output_loading_info=True, **fields
        )
    if lost := sorted(key for key in report["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")):
        raise ValueError(f"{checkpoint} lacks {len(lost)} weights of encoder and predictor: {', '.join(lost[:5])}")
    trainer = AnticipationTrainer(
        arguments.prepare(model),
        training,
        {"frames_per_second": arguments.fps, "mask_index": arguments.mask_index},
        (dataset_names(arguments.dataset)["dataset"], f"anchor {arguments.anchor}"),
        train_dataset=train,
        eval_dataset=test,
        data_collator=ActionCollator(),
        processing_class=processor,
    )
    run_training(trainer, given_fields(types, argv))
    trainer.merge_adapters()
    trainer.save_model()  # what comes now may fail, and must not take the training with it
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        trainer.save_metrics("eval", metrics)
        if classes is not None:
            with new_name(Path(training.output_dir) / "action_classes.json") as path:
                path.write_text(json.dumps(classes) + "\n", encoding="utf-8")
        shown = {
            key.removeprefix("eval_"): value for key, value in metrics.items() if "_recall" in key or "_top" in key
        }
        print(format_table({"clips": len(test)} | shown))
    finish(trainer, dataset_names(arguments.dataset) | card)
    return trainer


__all__ = ["AnticipationArguments", "AnticipationTrainer", "finetune", "open_data"]
