"""`VLJepaTrainer`: transformers' `Trainer` for pairs of a video or image and a text, compared in embedding space."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging

from hf_jepa.core.regularization import takes_step
from hf_jepa.evaluation.retrieval import retrieval_recall
from hf_jepa.losses.distributed import without_rows
from hf_jepa.training.cached_infonce import CachedGradients, cache_gradients, surrogate
from hf_jepa.training.nonfinite import restore_random_state
from hf_jepa.training.optimizer import is_matrix
from hf_jepa.training.reports import format_table
from hf_jepa.training.run import RunArguments, RunTrainer
from hf_jepa.training.run_cards import size_of
from hf_jepa.training.skipped import SkippedSamplesMixin
from hf_jepa.training.step_weights import StepWeightsMixin


logger = logging.get_logger(__name__)

_LOGGED = ("loss", "regularization_loss", "accuracy", "true_cosine", "other_cosine", "logit_scale")
_RECALL = (1, 5, 10)


@dataclass
class VLJepaTrainingArguments(RunArguments):
    """`TrainingArguments` with the settings of VL-JEPA (2512.10942, section 3.1), and ours where the paper is silent.

    From the paper: a constant learning rate of 5e-5, and 0.05 times that for the weights of the text encoder. Ours:
    warm-up, betas, weight decay, clipping.

    The negatives of a pair are the other pairs of its batch, of all processes where the config gathers them. Batches
    that are accumulated add none, unless `cached_infonce` makes one batch of them.

    Raises:
        ValueError: a multiplier that is not above 0.

    Example:
        >>> args = VLJepaTrainingArguments(output_dir="runs/example", use_cpu=True)
        >>> args.learning_rate, args.text_lr_multiplier, args.lr_scheduler_type.value
        (5e-05, 0.05, 'constant_with_warmup')
    """

    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate."})
    text_lr_multiplier: float = field(
        default=0.05,
        metadata={"help": "Of the weights of the text encoder; its projection learns at the full rate."},
    )
    cached_infonce: bool = field(
        default=False,
        metadata={
            "help": "Make the accumulated batches of a step one batch of negatives: two passes (GradCache, 2101.06983)."
        },
    )
    save_vision: bool = field(
        default=True, metadata={"help": "Keep a frozen vision encoder in the checkpoints; else name it in loading."}
    )
    lr_scheduler_type: str = field(
        default="constant_with_warmup", metadata={"help": "constant_with_warmup, cosine, ... as in transformers."}
    )
    warmup_steps: float = field(default=2000, metadata={"help": "Steps of the warm-up, or their share if below 1."})
    weight_decay: float = field(default=0.05, metadata={"help": "Of matrices; other parameters are not decayed."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Of AdamW."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradient clipping; 0 is none."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop an incomplete last batch."})

    def __post_init__(self):
        super().__post_init__()
        if self.label_names is None:
            self.label_names = []  # the targets are made by the model
        if not self.text_lr_multiplier > 0:
            raise ValueError(
                f"text_lr_multiplier={self.text_lr_multiplier} must be above 0: set freeze_text in the config of the "
                "model to leave the text encoder as it is"
            )


def vision_language_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, text_lr_multiplier: float
) -> list[dict]:
    """Group trainable parameters: the text encoder learns slower, and only matrices are decayed.

    Its projection and the temperature learn at the full rate. Biases, norms and the temperature are not decayed.
    Frozen parameters are left out.

    Args:
        model: a `VLJepaForPreTraining`.
        learning_rate: of all but the text encoder.
        weight_decay: of parameters of two dimensions or more.
        text_lr_multiplier: times which the text encoder's weights learn.

    Returns:
        groups for a torch optimizer, each with its own "lr" and "weight_decay"; that of the predictor's matrices
        first. Empty groups are left out.

    Raises:
        ValueError: nothing to train.

    Example:
        >>> from types import SimpleNamespace
        >>> model = nn.ModuleDict({"text_model": nn.Linear(2, 2), "text_projection": nn.Linear(2, 2)})
        >>> model.base_model = SimpleNamespace(text_model=model["text_model"])
        >>> [(group["lr"], group["weight_decay"]) for group in vision_language_groups(model, 1.0, 0.1, 0.05)]
        [(1.0, 0.1), (1.0, 0.0), (0.05, 0.1), (0.05, 0.0)]
    """
    slow = set(map(id, model.base_model.text_model.parameters()))
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {
        (text, decays): [] for text in (False, True) for decays in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[id(parameter) in slow, is_matrix(parameter) and not name.endswith("bias")].append(parameter)
    found = [
        {
            "params": parameters,
            "lr": learning_rate * (text_lr_multiplier if text else 1.0),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (text, decays), parameters in groups.items()
        if parameters
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no trainable parameter")
    return found


class VLJepaTrainer(StepWeightsMixin, SkippedSamplesMixin, RunTrainer):
    """Trains a VL-JEPA on batches of a `VLJepaDataCollator`: stage 1 without queries, fine-tuning with them.

    Args:
        model: a `VLJepaForPreTraining`; what is frozen in it is not in the optimizer and stays in `eval()`.
        args: `VLJepaTrainingArguments`.
        kwargs: as for `Trainer`; `processing_class` is the `VLJepaProcessor`, which is saved beside the weights.

    Evaluation reports the loss of its batches, and over all evaluation pairs the recall at 1, 5 and 10 of texts for
    videos and of videos for texts.

    Raises:
        ValueError: `cached_infonce` under ZeRO-3 or FSDP, where the temperature cannot be read outside of the forward
            pass, or with nothing to accumulate; no negatives at all; a checkpoint of another model to resume from.
        FloatingPointError, ValueError: see also `GuardMixin` and `SkippedSamplesMixin`.
    """

    samples = "pairs"

    def __init__(self, model: nn.Module, args: VLJepaTrainingArguments, **kwargs: Any):
        if kwargs.pop("compute_metrics", None) is not None:
            raise ValueError("compute_metrics: evaluation measures the loss and recalls; see VisionLanguageTasks")
        super().__init__(model=model, args=args, compute_metrics=self._recalls, **kwargs)
        self._require_negatives()
        if args.cached_infonce and (is_deepspeed_zero3_enabled() or self.is_fsdp_enabled):
            raise ValueError("cached_infonce: take ddp.yaml, zero1.yaml or zero2.yaml, which keep weights whole")
        if not (args.save_vision or model.config.freeze_vision):
            raise ValueError("save_vision=false: the vision encoder is trained, so it must be saved")
        self._sizes = size_of(p for p in model.parameters() if p.requires_grad), size_of(model.parameters())
        self._takes_step = takes_step(model)
        self._batches: list[dict[str, Any]] = []  # of the present step
        self._blank: list[bool] = []
        self._place = 0  # of the present batch among them
        self._step_weight: torch.Tensor | float = 1.0
        self._cached: CachedGradients | None = None
        self._shown: tuple[torch.Tensor | None, ...] | None = None  # embeddings and groups of the last batch
        self._regularization: torch.Tensor | None = None
        self.add_callback(_EachStep(self))

    def _require_negatives(self) -> None:
        args, config = self.args, self.model.config
        batch = args.per_device_train_batch_size * (args.world_size if config.gather_negatives else 1)
        if args.cached_infonce and args.gradient_accumulation_steps == 1:
            raise ValueError("cached_infonce needs gradient_accumulation_steps above 1: it joins accumulated batches")
        if config.loss_type == "infonce" and batch == 1 and not args.cached_infonce:
            raise ValueError(
                "infonce tells a pair from the others of its batch, so its loss is 0 in batches of one: raise "
                "per_device_train_batch_size, or set cached_infonce"
            )
        if args.gradient_accumulation_steps > 1 and config.loss_type == "infonce" and not args.cached_infonce:
            logger.warning(
                f"{args.gradient_accumulation_steps} batches are accumulated, which adds no negatives: each pair is "
                f"told from {batch - 1} others. cached_infonce=true makes one batch of them"
            )

    # --- a step -------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._batches, self._blank, self._place, self._cached = [], [], 0, None
        for batch in batches:
            self._batches.append(self._complete(batch))
            self._blank.append(self._batch_is_blank)
        weights = list(self._weights)
        self._weights = iter(weights)
        self._step_weight = torch.stack([weight for weight, _ in weights]).mean() if weights else 1.0
        return list(self._batches), items

    def _complete(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the model: without bookkeeping, with the number of the step."""
        inputs = self.take_skipped(inputs)
        del inputs["sample_index"]
        if self._batch_is_blank:  # a text has a token, as others expect
            inputs["target_mask"] = inputs["target_mask"].index_fill(1, torch.tensor([0]), 1)
        if self._takes_step:
            inputs["step"] = self.state.global_step
        return inputs

    def training_step(self, model, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        self._batch_is_blank = self._blank[self._place]
        if self.args.cached_infonce:
            if self._cached is None:
                self._cached = self._first_pass(model)
            restore_random_state(self._cached.random[self._place])
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._place += 1

    def _first_pass(self, model: nn.Module) -> CachedGradients:
        """The loss of all accumulated batches as one, and its gradient for every embedding."""
        model.train()
        single = self.accelerator.unwrap_model(model)
        sizes = [len(inputs["target_ids"]) for inputs in self._batches]
        blank = all(self._blank)
        # Rows that only stand in for data are no negatives of others.
        kept = [row for row, count in zip(self._blank, sizes, strict=True) for _ in range(count)]
        rows = torch.tensor([blank or not row for row in kept], device=self.args.device).nonzero().flatten()
        groups = [inputs["target_group"] for inputs in self._batches if "target_group" in inputs]
        group = self._prepare_input(torch.cat(groups)).index_select(0, rows) if groups else None
        step = {"step": self.state.global_step} if self._takes_step else {}

        def encode(inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
            with self.compute_loss_context_manager():
                outputs = model(**self._prepare_inputs(inputs))
            return outputs.predictions, outputs.targets

        def loss_of(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            predictions, targets = predictions.index_select(0, rows), targets.index_select(0, rows)
            outputs = single.compute_objective(predictions, targets, target_group=group, **step)
            self._shown, self._regularization = (predictions.detach(), targets.detach(), group), None
            if outputs.regularization_loss is not None:
                self._regularization = outputs.regularization_loss.detach()
            return outputs.loss

        if single.config.freeze_vision:  # which both passes would encode alike
            for inputs in self._batches:
                if "pixel_values_videos" in inputs:
                    with torch.no_grad(), self.compute_loss_context_manager():
                        pixels = self._prepare_input(inputs.pop("pixel_values_videos"))
                        inputs["vision_tokens"] = single.base_model.get_vision_tokens(pixels)
        return cache_gradients(encode, self._batches, loss_of, self._own_parameters(single), self.args.device)

    def _own_parameters(self, single: nn.Module) -> list[nn.Parameter]:
        """Of the loss itself."""
        return [p for p in (single.base_model.logit_scale,) if p.requires_grad]

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.model.training and self._cached is not None:
            loss = self._cached_loss(outputs)
        elif self.model.training:
            self._shown = outputs.predictions.detach(), outputs.targets.detach(), inputs.get("target_group")
            self._regularization = outputs.regularization_loss
        return (loss, outputs) if return_outputs else loss

    def _cached_loss(self, outputs: Any) -> torch.Tensor:
        """The loss of the step, which the Trainer divides by its batches, with the gradient of this one's share."""
        cached, count = self._cached, len(self._batches)
        own = self._own_parameters(self.accelerator.unwrap_model(self.model))
        shares = [gradient / count for gradient in cached.parameters]
        through = surrogate((outputs.predictions, outputs.targets), cached.embeddings[self._place], own, shares)
        loss = cached.loss + count * (through - through.detach())
        # By 1, or by NaN: an infinite loss can have a finite gradient.
        return loss * self._step_weight * (0.0 if all(self._blank) else 1.0) * (1 + 0 * cached.loss)

    # --- optimizer ----------------------------------------------------------------------------------------------

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            args, model = self.args, self.model if model is None else model
            make, options = self.get_optimizer_cls_and_kwargs(args, model)
            groups = vision_language_groups(model, args.learning_rate, args.weight_decay, args.text_lr_multiplier)
            self.optimizer = make(groups, **options)
        return self.optimizer

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the scale of the similarities at or below its largest value, as CLIP does (2103.00020, section 2.5)."""
        model = self.accelerator.unwrap_model(self.model)
        scale, largest = model.base_model.logit_scale, model.config.logit_scale_max
        if not scale.requires_grad:
            return
        if self.is_deepspeed_enabled:  # whose optimizer has a copy of its own
            from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

            safe_set_full_fp32_param(scale, safe_get_full_fp32_param(scale).clamp(max=largest))
        scale.data.clamp_(max=largest)

    # --- evaluation ---------------------------------------------------------------------------------------------

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss of a batch, its embeddings (rows, D), and the sample indices, -1 in place of missing rows."""
        index = inputs["sample_index"].to(self.args.device)
        inputs = self._prepare_inputs(self._complete(inputs))
        if self._batch_is_blank:
            index = torch.full_like(inputs["target_ids"][:, 0], -1)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        missing = max(0, self.args.eval_batch_size - len(index))  # all processes hand in equally many
        embeddings = [nn.functional.pad(x.float(), (0, 0, 0, missing)) for x in (outputs.predictions, outputs.targets)]
        return outputs.loss.detach(), tuple(embeddings), nn.functional.pad(index, (0, missing), value=-1)

    def _recalls(self, measured: EvalPrediction) -> dict[str, float]:
        """Of texts for videos, and of videos for texts, over all pairs that could be read, each once."""
        rows = {int(index): row for row, index in enumerate(measured.label_ids) if index >= 0}
        if not rows:
            raise ValueError(f"none of the evaluation {self.samples} can be read")
        predictions, targets = (x[list(rows.values())] for x in measured.predictions)
        return retrieval_recall(predictions, targets, _RECALL)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.save_vision:
            whole = self.model.state_dict() if state_dict is None else state_dict
            state_dict = {name: value for name, value in whole.items() if not self._is_left_out(name)}
        super()._save(output_dir, state_dict)

    def _is_left_out(self, name: str) -> bool:
        """Whether a weight is one of the frozen vision encoder, which is not to be saved."""
        return not self.args.save_vision and name.startswith(f"{self.model.base_model_prefix}.vision_model.")

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Nothing to warn of, but weights that a checkpoint leaves as they are belong to another model."""
        tensors = self.model.state_dict(keep_vars=True)
        loaded = {id(value) for name, value in tensors.items() if name not in load_result.missing_keys}
        missing = [
            name
            for name in load_result.missing_keys
            if id(tensors[name]) not in loaded and not self._is_left_out(name)  # others are tied
        ]
        if missing or load_result.unexpected_keys:
            example = [*missing, *load_result.unexpected_keys][0]
            raise ValueError(
                f"the checkpoint is one of another model: {len(missing)} weights of this one are not in it, and "
                f"{len(load_result.unexpected_keys)} in it are not of this one, for example {example}"
            )

    # --- what people read ---------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._shown is not None:
            logs |= self._signals()
        super().log(logs, start_time)

    def _signals(self) -> dict[str, float]:
        """Of the last batch, the mean over processes: how many find their text, and how alike pairs are."""
        found = pair_signals(*self._shown)
        if self._regularization is not None:
            found["regularization_loss"] = self._regularization.float()
        values = self.accelerator.reduce(torch.stack(list(found.values())), reduction="mean").tolist()
        scale = self.accelerator.unwrap_model(self.model).base_model.logit_scale.detach()
        scale = scale.full_tensor() if hasattr(scale, "full_tensor") else scale
        shown = dict(zip(found, values, strict=True))
        return shown | ({"logit_scale": math.exp(float(scale))} if scale.numel() else {})  # empty under ZeRO-3

    def summary(self) -> dict[str, Any]:
        """The run in a few lines: steps, negatives, first and last of what was logged, pairs left out."""
        rows: dict[str, Any] = {"steps": self.state.global_step, "negatives of a pair": self.negatives()}
        for name in _LOGGED:
            if values := [entry[name] for entry in self.state.log_history if name in entry]:
                rows |= {f"first {name}": values[0], f"last {name}": values[-1]}
        rows |= self.throughput() | {f"skipped {self.samples}": len(self.skipped)}
        return rows | self.nonfinite_summary()

    def negatives(self) -> int:
        """Other pairs that each pair is told from in a full batch."""
        args = self.args
        joined = args.gradient_accumulation_steps if args.cached_infonce else 1
        return args.per_device_train_batch_size * joined * (args.world_size if self._gathers() else 1) - 1

    def _gathers(self) -> bool:
        return self.model.config.gather_negatives

    def card_details(self) -> dict[str, Any]:
        last: dict[str, float] = {}  # of what was logged
        for entry in self.state.log_history:
            last |= entry
        facts = {"Trained values": "{:,} of {:,}".format(*self._sizes), "Negatives of a pair": f"{self.negatives():,}"}
        if found := [f"{name} {last[name]:.4g}" for name in _LOGGED if name in last]:
            facts["At the end"] = ", ".join(found)
        if measured := [f"{name} {value:.4g}" for name, value in last.items() if "recall" in name]:
            facts["On evaluation pairs"] = ", ".join(measured)
        return {"facts": facts, "unverified": "No task beside retrieval in its own data was measured in this run."}


@torch.no_grad()
def pair_signals(
    predictions: torch.Tensor, targets: torch.Tensor, group: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """How well a batch of embeddings tells its pairs apart, as scalars on the device.

    Args:
        predictions, targets: (B, D), rows in pairs.
        group: int64 (B,), equal where target strings are equal, which are then no mistake of each other.

    Returns:
        "accuracy", the share of predictions whose nearest target is theirs; "true_cosine", the mean of pairs;
        "other_cosine", the mean of all others (0 where there are none).

    Example:
        >>> found = pair_signals(torch.eye(2), torch.eye(2).flip(0))
        >>> found["accuracy"].item(), found["other_cosine"].item()
        (0.0, 1.0)
        >>> pair_signals(torch.eye(2), torch.eye(2).flip(0), torch.tensor([7, 7]))["accuracy"].item()
        1.0
    """
    cosines = nn.functional.normalize(predictions.float(), dim=-1) @ nn.functional.normalize(targets.float(), dim=-1).T
    group = torch.arange(len(cosines), device=cosines.device) if group is None else group.to(cosines.device)
    same = group[:, None] == group
    right = same.gather(1, cosines.argmax(1, keepdim=True)).float().mean()
    others = (cosines * ~same).sum() / (~same).sum().clamp(min=1)
    return {"accuracy": right, "true_cosine": cosines.diagonal().mean(), "other_cosine": others}


class _EachStep(TrainerCallback):
    """The temperature after a step, the table after the run."""

    def __init__(self, trainer: VLJepaTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.clamp_logit_scale()

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.gather_skipped()
        if state.is_world_process_zero:
            print("\n" + format_table(self.trainer.summary()))


__all__ = ["VLJepaTrainer", "VLJepaTrainingArguments", "pair_signals", "vision_language_groups"]
