"""Fine-tuning for classification of images and videos: a probe, LoRA adapters, or all weights."""

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, EvalPrediction
from transformers.utils import logging

from hf_jepa.core.configuration import model_fields as fields_of
from hf_jepa.registry import Variant, find_variant
from hf_jepa.training.epochs import SetEpochCallback
from hf_jepa.training.optimizer import layerwise_groups
from hf_jepa.training.reports import ReportCallback, first_and_last
from hf_jepa.training.run import RunArguments, RunTrainer
from hf_jepa.training.run_cards import accuracy_results, trained_of_all
from hf_jepa.training.skipped import SkippedSamplesMixin


logger = logging.get_logger(__name__)

MODES = ("probe", "lora", "full")
# The classification heads of the registry, and how the Hub calls their tasks.
TASKS = {
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForVideoClassification": "video-classification",
}
# Queries and values of the encoder's layers; a predictor beside the encoder plays no part.
ADAPTED = r".*(?<!predictor\.)layers?\.\d+\.attention\.(q_proj|v_proj|query|value)"
# What makes an encoder in training another function at every call, and the values without which it is one.
_RANDOM_PARTS = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "drop_path_prob": 0.0,
    "pos_embed_shift": None,
    "pos_embed_jitter": None,
    "pos_embed_rescale": None,
}
IGNORED = -100  # label of an image or video that could not be read


@dataclass
class FineTuningArguments(RunArguments):
    """`TrainingArguments` with the defaults of fine-tuning, and the decay of the learning rate over layers.

    Example:
        >>> FineTuningArguments(output_dir="runs/example", use_cpu=True, layer_decay=0.75).lr_scheduler_type.value
        'cosine'
    """

    layer_decay: float = field(default=1.0, metadata={"help": "Learning rate of a layer over that of the next one."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate (of the classifier)."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of matrices."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Course of the learning rate."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of warm-up, or their share if below 1."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to measure the accuracy."})
    hub_strategy: str = field(default="end", metadata={"help": "When to upload, with push_to_hub."})


def require_mergeable(mode: str, training: FineTuningArguments) -> None:
    """Refuse adapters that would be uploaded before they are merged, or that an engine holds in its own way.

    Raises:
        ValueError: naming the option.
    """
    if mode == "lora" and training.push_to_hub and training.hub_strategy != "end":
        raise ValueError(
            f"hub_strategy={training.hub_strategy.value} would upload adapters beside the merged weights, which then "
            "nobody could load: use hub_strategy=end with mode=lora"
        )
    if mode == "lora" and training.uses_engine:
        raise ValueError(
            "mode=lora: adapters are merged into the weights, which DeepSpeed and FSDP hold in their own way. They "
            "are few, so that plain data parallelism does: take accelerate_configs/ddp.yaml"
        )


def load_classifier(
    variant: Variant, checkpoint: str, class_names: list[str], mode: str, **model_fields: Any
) -> nn.Module:
    """The variant's classifier with the encoder of a checkpoint; a classifier of other classes starts afresh.

    Args:
        variant: of the checkpoint.
        checkpoint: Hub id or folder of a pretraining checkpoint (its target encoder), an encoder or a classifier. A
            classifier that does not name its classes is taken to have these.
        class_names: of the classes, in the order of the labels.
        mode: "probe" also switches off what is random in the encoder (dropout, stochastic depth, perturbed
            positions), which then is a fixed function. In the other modes, which train the encoder, one that is no
            classifier yet gets the `finetuning_fields` of the classifier's class.
        model_fields: config fields that differ from those of the checkpoint.

    Raises:
        ValueError: the variant has no classifier, or weights of the encoder are missing.
    """
    heads = [name for name in variant.heads if name in TASKS]
    if not heads:
        raise ValueError(f"{variant.title} has no class for classification")
    model_class = variant.model_class(variant.heads[heads[0]])
    stored = AutoConfig.from_pretrained(checkpoint)
    options: dict[str, Any] = model_fields | {"id2label": dict(enumerate(class_names))}
    options["label2id"] = {name: number for number, name in options["id2label"].items()}
    if mode == "probe":
        known = fields_of(variant.config_class())
        options |= {name: value for name, value in _RANDOM_PARTS.items() if name in known}
    elif model_class.__name__ not in (stored.architectures or []):
        options = getattr(model_class, "finetuning_fields", {}) | options
    model, report = model_class.from_pretrained(
        checkpoint, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **options
    )
    mismatched = {entry[0] if isinstance(entry, tuple) else entry for entry in report["mismatched_keys"]}
    fresh = set(report["missing_keys"]) | mismatched
    if lost := sorted(key for key in fresh if key.split(".")[0] not in head_names(model)):
        raise ValueError(
            f"{checkpoint} lacks {len(lost)} weights of the encoder or has other shapes of them: {', '.join(lost[:5])}"
        )
    trained = stored.id2label
    if not fresh and trained not in (options["id2label"], {number: f"LABEL_{number}" for number in trained}):
        fresh = {"classifier"}
        for parameter in model.classifier.parameters():
            parameter._is_hf_initialized = False  # loaded, but with the answers to another question
        model._init_weights(model.classifier)
    if fresh:
        logger.warning(f"the classifier of {len(class_names)} classes starts from a fresh initialisation")
    return model


def head_names(model: nn.Module) -> list[str]:
    """What a model has beside its base model: a classifier, a pooler."""
    return [name for name, _ in model.named_children() if name != model.base_model_prefix]


def prepare_mode(
    model: nn.Module, mode: str, rank: int = 8, alpha: float | None = None, dropout: float = 0.0
) -> nn.Module:
    """Make trainable what the mode trains.

    Args:
        model: from `load_classifier`.
        mode: "probe", the classifier (with its pooler) alone; "lora", it and adapters on the query and value
            projections of every layer; "full", everything that the logits depend on.
        rank, alpha, dropout: of the adapters; `alpha` is twice the rank unless given.

    Returns:
        the model, for "lora" inside a `peft.PeftModel`.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is not one of {', '.join(MODES)}")
    heads = head_names(model)
    if hasattr(model.base_model, "predictor") and not getattr(model, "reads_predictions", False):
        model.base_model.predictor.requires_grad_(False)
    if mode == "probe":
        model.requires_grad_(False)
        for name in heads:
            getattr(model, name).requires_grad_(True)
    if mode == "lora":
        alpha = 2 * rank if alpha is None else alpha
        lora = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=ADAPTED, modules_to_save=heads
        )
        return get_peft_model(model, lora)
    return model


class ClassificationMetrics:
    """`compute_metrics` of a Trainer: loss, top-1 and top-5 accuracy, and the confusion matrix, which it keeps.

    Rows with the label -100 (files that could not be read) are left out.

    Args:
        num_classes: C.
        label_smoothing: of the loss.

    Attributes:
        confusion: (C, C) counts [true class, predicted class], or None before the first evaluation.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0):
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.confusion: list[list[int]] | None = None

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        from hf_jepa.evaluation.metrics_hub import ConfusionMatrix, TopKAccuracy

        known = prediction.label_ids != IGNORED
        if not known.any():
            raise ValueError("none of the evaluation files can be read")
        logits, labels = prediction.predictions[known], prediction.label_ids[known]
        guesses = logits.argmax(axis=-1)
        counts = ConfusionMatrix().compute(predictions=guesses, references=labels, num_classes=self.num_classes)
        self.confusion = counts["confusion_matrix"]
        loss = nn.functional.cross_entropy(
            torch.from_numpy(logits).float(), torch.from_numpy(labels).long(), label_smoothing=self.label_smoothing
        )
        return {"loss": loss.item()} | TopKAccuracy().compute(predictions=logits, references=labels)


class FineTuningTrainer(SkippedSamplesMixin, RunTrainer):
    """transformers' `Trainer` with learning rates by layer and adapters that are merged at the end."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(SetEpochCallback())
        self.add_callback(ReportCallback(self))

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            args = self.args
            model = self.model if model is None else model
            groups = layerwise_groups(model, args.learning_rate, args.weight_decay, args.layer_decay)
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, model)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def merge_adapters(self) -> None:
        """Fold adapters into the weights they adapt, so that an ordinary checkpoint is saved; without any, nothing."""
        if hasattr(self.model, "merge_and_unload"):
            self.model = self.model_wrapped = self.model.merge_and_unload()

    def summary(self) -> dict[str, Any]:
        """The run in a few lines: steps, first and last loss, samples left out."""
        rows: dict[str, Any] = {"steps": self.state.global_step} | first_and_last(self.state.log_history)
        return rows | self.throughput() | {f"skipped {self.samples}": len(self.skipped)}


class ClassificationTrainer(FineTuningTrainer):
    """Trains a classifier on batches of an `ImageCollator` or `VideoCollator`.

    The collator keeps the rows of what cannot be read (`keep_unreadable=True`).

    Args:
        model: from `prepare_mode`.
        args: `FineTuningArguments`.
        measured_on: names of the evaluation data and of its split, for the card.
        kwargs: as for `Trainer`.

    Example:
        >>> import tempfile
        >>> from hf_jepa import IJepaConfig, IJepaForImageClassification, ImageCollator
        >>> from hf_jepa.data.embedded import LabelledCrops
        >>> model = IJepaForImageClassification(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_labels=18,
        ...     num_attention_heads=2, intermediate_size=32, image_size=48, patch_size=8))
        >>> args = FineTuningArguments(tempfile.mkdtemp(), use_cpu=True, report_to="none", disable_tqdm=True)
        >>> crops = LabelledCrops("test", 2)
        >>> collator = ImageCollator(keep_unreadable=True)
        >>> trainer = ClassificationTrainer(model, args, eval_dataset=crops, data_collator=collator)
        >>> sorted(trainer.predict(crops).metrics)[:3]
        ['test_loss', 'test_model_preparation_time', 'test_runtime']
    """

    def __init__(
        self,
        model: nn.Module,
        args: FineTuningArguments,
        measured_on: tuple[str, str] = ("unnamed data", "held out"),
        **kwargs: Any,
    ):
        self.measured_on = measured_on
        self.classification = ClassificationMetrics(model.config.num_labels, args.label_smoothing_factor)
        super().__init__(model=model, args=args, compute_metrics=self.classification, **kwargs)
        self.samples = "clips" if "video" in model.input_modalities else "images"

    def training_step(self, model, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        return super().training_step(model, self._model_inputs(inputs), num_items_in_batch)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        # Hidden states are nobody's prediction; the loss is that of all readable images, see ClassificationMetrics.
        _, logits, labels = super().prediction_step(
            model, self._model_inputs(inputs), False, ["hidden_states", "attentions"]
        )
        if self._batch_is_blank and labels is not None:
            labels = torch.full_like(labels, IGNORED)
        return None, logits, labels

    def _model_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = self.take_skipped(inputs, kept=True)
        del inputs["sample_index"]
        if self._batch_is_blank:  # the mean loss of no label is NaN, which no weight takes away
            inputs["labels"] = torch.zeros_like(inputs["labels"])
        return inputs

    def card_details(self) -> dict[str, Any]:
        logged = next((entry for entry in reversed(self.state.log_history) if "eval_top1" in entry), {})
        metrics = {name: logged[f"eval_{name}"] for name in ("top1", "top5") if f"eval_{name}" in logged}
        accuracy = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "not measured"
        data, split = self.measured_on
        task = TASKS[next(name for name in find_variant(self.model.config.model_type, data).heads if name in TASKS)]
        return {
            "task": task,
            "facts": {
                "Classes": f"{self.model.config.num_labels}",
                "Trained values": "{:,} of {:,}".format(*trained_of_all(self.model)),
                f"Accuracy on {data}, {split}": accuracy,
            },
            "unverified": "Other data than the one named above was not tried.",
            "results": accuracy_results(task, data, split, metrics),
        }


__all__ = [
    "MODES",
    "ClassificationMetrics",
    "ClassificationTrainer",
    "FineTuningArguments",
    "FineTuningTrainer",
    "head_names",
    "load_classifier",
    "prepare_mode",
    "require_mergeable",
]
