"""`VLJepaTrainer`: transformers' `Trainer` for pairs of a video or image and a text, compared in embedding space."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import EvalPrediction
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging

from hf_jepa.core.regularization import takes_step
from hf_jepa.data.vision_text_mixture import vision_text_sampler
from hf_jepa.evaluation.retrieval import retrieval_recalls
from hf_jepa.losses.distributed import process_count
from hf_jepa.training.cached_infonce import CachedGradients, cache_gradients, surrogate
from hf_jepa.training.checkpoints import require_same_model
from hf_jepa.training.epochs import SetEpochCallback
from hf_jepa.training.nonfinite import restore_random_state
from hf_jepa.training.reports import ReportCallback
from hf_jepa.training.run import RunTrainer
from hf_jepa.training.run_cards import trained_of_all
from hf_jepa.training.skipped import SkippedSamplesMixin
from hf_jepa.training.step_weights import StepWeightsMixin
from hf_jepa.training.unaligned import unaligned
from hf_jepa.training.vision_language_arguments import VLJepaTrainingArguments, vision_language_groups
from hf_jepa.training.vision_language_reports import VisionLanguageReportMixin


logger = logging.get_logger(__name__)


class VLJepaTrainer(VisionLanguageReportMixin, StepWeightsMixin, SkippedSamplesMixin, RunTrainer):
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
        kwargs["processing_class"] = unaligned(kwargs.get("processing_class"))
        super().__init__(model=model, args=args, compute_metrics=self._recalls, **kwargs)
        self._require_negatives()
        if args.cached_infonce and (is_deepspeed_zero3_enabled() or self.is_fsdp_enabled):
            raise ValueError("cached_infonce: take ddp.yaml, zero1.yaml or zero2.yaml, which keep weights whole")
        if not (args.save_vision or model.config.freeze_vision):
            raise ValueError("save_vision=false: the vision encoder is trained, so it must be saved")
        self._sizes = trained_of_all(model)
        self._takes_step = takes_step(model)
        self._batches: list[dict[str, Any]] = []  # of the present step
        self._blank: list[bool] = []
        self._place = 0  # of the present batch among them
        self._step_weight: torch.Tensor | float = 1.0
        self._cached: CachedGradients | None = None
        self.add_callback(SetEpochCallback())
        self.add_callback(_Report(self))

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

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Batches of one clip length, in all processes at a time."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        size = lambda: self.state.train_batch_size or self._train_batch_size  # noqa: E731
        sampler = vision_text_sampler(dataset, size, lambda: size() * self.args.world_size)
        return super()._get_train_sampler(train_dataset) if sampler is None else sampler

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
        if self._batch_is_blank:  # a text has a token; and of zeros predictions are zero, which have no direction
            inputs["target_mask"] = inputs["target_mask"].index_fill(1, torch.tensor([0]), 1)
            seen = {"pixel_values_videos", "vision_tokens"} & inputs.keys()
            inputs |= {name: torch.ones_like(inputs[name]) for name in seen}
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
        # Rows that only stand in for data are no negatives of others.
        kept = [row for row, count in zip(self._blank, sizes, strict=True) for _ in range(count)]
        rows = torch.tensor([not row for row in kept], device=self.args.device).nonzero().flatten()
        groups = [inputs["target_group"] for inputs in self._batches if "target_group" in inputs]
        group = self._prepare_input(torch.cat(groups)).index_select(0, rows) if groups else None
        step = {"step": self.state.global_step} if self._takes_step else {}

        def encode(inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
            with self.compute_loss_context_manager():
                outputs = model(**self._prepare_inputs(inputs))
            return outputs.predictions, outputs.targets

        def loss_of(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            if not len(rows) and process_count() == 1:
                return 0.0 * (predictions.sum() + targets.sum())
            predictions, targets = predictions.index_select(0, rows), targets.index_select(0, rows)
            outputs = single.objective(predictions, targets, group, **step)
            self._show(outputs, group)
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
            self._show(outputs, inputs.get("target_group"))
        return (loss, outputs) if return_outputs else loss

    def _cached_loss(self, outputs: Any) -> torch.Tensor:
        """The loss of the step, which the Trainer divides by its batches, with the gradient of this one's share."""
        cached, count = self._cached, len(self._batches)
        own = self._own_parameters(self.accelerator.unwrap_model(self.model))
        shares = [gradient / count for gradient in cached.parameters]
        through = surrogate((outputs.predictions, outputs.targets), cached.embeddings[self._place], own, shares)
        if all(self._blank):
            return 0.0 * through
        # By 1, or by NaN: an infinite loss can have a finite gradient.
        return (cached.loss + count * (through - through.detach())) * self._step_weight * (1 + 0 * cached.loss)

    def _show(self, outputs: Any, group: torch.Tensor | None) -> None:
        """Keep what the next log says of this batch."""
        if len(outputs.predictions):
            self.shown = outputs.predictions.detach(), outputs.targets.detach(), group
        regularization = outputs.regularization_loss
        self.regularization = None if regularization is None else regularization.detach()

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
        if self.is_deepspeed_enabled and scale.requires_grad:  # whose optimizer has a copy of its own
            import deepspeed.utils as engine

            if is_deepspeed_zero3_enabled():  # a part of it, or padding, in each process
                engine.safe_set_local_fp32_param(scale, engine.safe_get_local_fp32_param(scale).clamp(max=largest))
                scale.ds_tensor.clamp_(max=largest)
            else:
                engine.safe_set_full_fp32_param(scale, engine.safe_get_full_fp32_param(scale).clamp(max=largest))
        model.base_model.clamp_logit_scale()

    # --- evaluation ---------------------------------------------------------------------------------------------

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluation measures a batch, and hands on what recall over all of them needs.

        Returns:
            the loss; predictions and targets (rows, D); sample index and group of texts (rows, 2), -1 for none.
        """
        index = inputs["sample_index"]
        inputs = self._prepare_inputs(self._complete(inputs))
        rows = len(inputs["target_ids"])
        index = torch.full((rows,), -1) if self._batch_is_blank else index
        index = index.to(self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        labels = torch.stack([index, inputs.get("target_group", index)], dim=1)
        missing = (0, 0, 0, max(0, self.args.eval_batch_size - rows))  # all processes hand in equally many
        embeddings = (outputs.predictions, outputs.targets)
        embeddings = tuple(nn.functional.pad(x.float(), missing) for x in embeddings)
        return outputs.loss.detach(), embeddings, nn.functional.pad(labels, missing, value=-1)

    def _recalls(self, measured: EvalPrediction) -> dict[str, float]:
        """Of texts for videos, and of videos for texts, over all pairs that could be read, each once."""
        rows = list({int(index): row for row, (index, _) in enumerate(measured.label_ids) if index >= 0}.values())
        if not rows:
            raise ValueError(f"none of the evaluation {self.samples} can be read")
        predictions, targets = (torch.from_numpy(x[rows]) for x in measured.predictions)
        group = torch.from_numpy(measured.label_ids[rows, 1])
        cosines = nn.functional.normalize(predictions, dim=-1) @ nn.functional.normalize(targets, dim=-1).T
        found = retrieval_recalls(cosines, group, group)
        return {f"{way}_{name}": value for way, recalls in found.items() for name, value in recalls.items()}

    # --- checkpoints --------------------------------------------------------------------------------------------

    @property
    def saves_encoder(self) -> bool:
        """Whether checkpoints hold the vision encoder."""
        return self.args.save_vision

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
        require_same_model(self.model, load_result, self._is_left_out)


class _Report(ReportCallback):
    """The temperature after a step, the table after the run."""

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.clamp_logit_scale()


__all__ = ["VLJepaTrainer", "VLJepaTrainingArguments"]
