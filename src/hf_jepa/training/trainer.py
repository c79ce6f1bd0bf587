"""`JepaTrainer`: transformers' `Trainer` plus what a JEPA needs at every step."""

from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, TrainerCallback
from transformers.utils import logging

from hf_jepa.core.clips import as_groups
from hf_jepa.core.ema import Average
from hf_jepa.core.modeling import JepaPreTrainingMixin
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.core.regularization import takes_step
from hf_jepa.masking.masks import Masks
from hf_jepa.training.adapters import AdapterMixin
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.batches import draw_masks, flat_masks, sample_losses
from hf_jepa.training.clipping import ClippingMixin
from hf_jepa.training.collapse import ADVICE, CollapseMonitor, CollapseSignals, collapse_signals, gather_signals
from hf_jepa.training.diagnosis.signals import TaskSignalsMixin
from hf_jepa.training.engines import called_apart
from hf_jepa.training.epochs import SetEpochCallback
from hf_jepa.training.reports import ReportCallback, first_and_last
from hf_jepa.training.run import RunTrainer
from hf_jepa.training.scheduled import ScheduleMixin
from hf_jepa.training.schedules import context_loss_weight_at, momentum_at
from hf_jepa.training.skipped import SkippedSamplesMixin
from hf_jepa.training.step_weights import StepWeightsMixin


logger = logging.get_logger(__name__)

SAMPLES = {"video": "clips", "audio": "recordings", "text": "texts", "image": "images"}  # by modality of the model


class JepaTrainer(
    TaskSignalsMixin, AdapterMixin, StepWeightsMixin, SkippedSamplesMixin, ScheduleMixin, ClippingMixin, RunTrainer
):
    """Pretrains any `...ForPreTraining` model of the package.

    At every step it draws the masks or changes the views, sets learning rate, weight decay and momentum from the step
    number, and after the optimizer moves the target encoder, where the model has one. Logging, saving, resuming,
    Accelerate, DeepSpeed and the Hub are the Trainer's.

    Masks are drawn here rather than in the collator because block sizes depend on the step, which a loader worker
    cannot know; so they depend on (seed, step, epoch, sample index) and on nothing else.

    Args:
        model: a pretraining model.
        args: `JepaTrainingArguments`.
        mask_sampler: called as `mask_sampler(sample_index, step=..., epoch=...)`, see `hf_jepa.masking`; for batches
            of several groups of clips a `MultiSequenceMaskSampler`. None for models that take no masks.
        view_augmentation: called as `view_augmentation(pixels, sample_index, epoch=...)` on the device, for models
            that compare views, see `ViewAugmentation`.
        kwargs: as for `Trainer`: `train_dataset`, `data_collator` (batches with the pixels, "sample_index", both a
            tensor or a list of groups, and optionally "skipped", see `ImageCollator` and `VideoCollator`),
            `processing_class`, `callbacks`, ...

    Raises:
        ValueError: batches without "sample_index", masks for another token grid than that of the images, a schedule of
            the context loss for a model that has none, more lengths of masks than torch.compile takes.
        FloatingPointError, ValueError: see also `GuardMixin`, `SkippedSamplesMixin` and `AdapterMixin`.

    Example:
        >>> import tempfile
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining, ImageCollator, MultiBlockMaskSampler
        >>> from hf_jepa.data.embedded import EmbeddedCrops
        >>> model = IJepaForPreTraining(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     intermediate_size=32, image_size=48, patch_size=8, pred_hidden_size=8, pred_num_hidden_layers=1))
        >>> options = {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True, "save_strategy": "no"}
        >>> trainer = JepaTrainer(
        ...     model,
        ...     JepaTrainingArguments(tempfile.mkdtemp(), report_to="none", disable_tqdm=True, **options),
        ...     mask_sampler=MultiBlockMaskSampler(model.config.grid_size, min_keep=3),
        ...     train_dataset=EmbeddedCrops(8),
        ...     data_collator=ImageCollator(),
        ... )
        >>> trainer.train().global_step  # doctest: +ELLIPSIS
        {'train_runtime...
        2
    """

    def __init__(
        self,
        model: JepaPreTrainingMixin,
        args: JepaTrainingArguments,
        mask_sampler: Callable[..., Masks] | None = None,
        view_augmentation: Callable[..., Any] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ):
        if kwargs.pop("compute_metrics", None) is not None:
            raise ValueError("compute_metrics: pretraining measures its loss; features are judged by OnlineKnnProbe")
        self.samples = next(SAMPLES[kind] for kind in SAMPLES if kind in model.input_modalities)
        # Before those of the user, which then see the target encoder of the step.
        callbacks = [SetEpochCallback(), _Report(self), *(callbacks or [])]
        super().__init__(model=model, args=args, callbacks=callbacks, compute_metrics=self._mean_loss, **kwargs)
        self.mask_sampler, self.view_augmentation = mask_sampler, view_augmentation
        shapes, limit = len(getattr(mask_sampler, "target_lengths", ())), torch._dynamo.config.recompile_limit
        if args.torch_compile and shapes > limit:
            raise ValueError(
                f"torch_compile: targets have {shapes} lengths, each of which is compiled, and after {limit} "
                f"torch.compile gives up: raise length_bucket={mask_sampler.length_bucket} (docs/masking.md)"
            )
        self.collapse_monitor = CollapseMonitor() if args.collapse_monitor else None
        self._details: dict[str, float] = {}
        self._takes_step = takes_step(model)

    # --- a step -------------------------------------------------------------------------------------------------

    def training_step(self, model, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        inputs = self._complete(inputs)
        if (end := self.args.context_loss_end_step) > 0:
            scale = context_loss_weight_at(self.state.global_step, 1.0, self.args.context_loss_start_step, end)
            inputs["context_loss_scale"] = torch.tensor(scale)  # as a number it would be compiled anew at every step
        return super().training_step(model, inputs, num_items_in_batch)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluation measures the loss of every sample, on masks that are the same at every evaluation.

        Where there are no target masks, every sample has the loss of its batch.

        Returns:
            None, the losses (B,), the sample indices (B,) that they belong to, -1 in the place of unreadable ones and
            of those that are too few to be compared.
        """
        sample_index = torch.cat(as_groups(inputs["sample_index"])).to(self.args.device)
        inputs = self._prepare_inputs(self._complete(inputs, step=0, epoch=0))
        if self._batch_is_blank:
            sample_index = torch.full_like(sample_index, -1)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        if "target_mask" in inputs:
            losses = sample_losses(outputs, inputs["target_mask"], self.model.config.loss_type)
            losses = losses + (outputs.loss - outputs.prediction_loss)  # a regulariser is one number for the batch
        else:
            losses = outputs.loss.expand(len(sample_index))
        missing = max(0, self.args.eval_batch_size - len(sample_index))  # all processes hand in equally many
        losses = nn.functional.pad(losses[: len(sample_index)], (0, missing))
        return None, losses, nn.functional.pad(sample_index, (0, missing), value=-1)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self._logs_this_step():  # reads values on the host: only then
            self._note(self.accelerator.unwrap_model(model), inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    def _note(self, model: JepaPreTrainingMixin, inputs: dict[str, Any], outputs: JepaForPreTrainingOutput) -> None:
        """Keep what the log of this step shall say beside the loss."""
        # Of a mask; where lengths differ, on average.
        self._details = {
            f"{kind}_tokens": fmean(mask.shape[1] for mask in flat_masks(inputs[f"{kind}_mask"]))
            for kind in ("context", "target")
            if f"{kind}_mask" in inputs
        }
        if outputs.regularization_loss is not None:
            self._details["prediction_loss"] = outputs.prediction_loss.item()
            self._details["regularization_loss"] = outputs.regularization_loss.item()
        if self.collapse_monitor is None:
            return
        signals = gather_signals(called_apart(model, lambda: collapse_signals(model, inputs, outputs)))
        if signals is not None:
            self.collapse_monitor.add(signals)
        elif outputs.loss.isfinite():  # the end of a stream, or a batch size of one
            logger.warning_once("batches of so few samples cannot show a collapse: the monitor skips them")

    def _complete(self, inputs: dict[str, Any], step: int | None = None, epoch: int | None = None) -> dict[str, Any]:
        """Replace the bookkeeping of a batch by what the model is to know of this step: masks, its number; views."""
        if "sample_index" not in inputs:
            raise ValueError(
                f"the batch has {sorted(inputs)} but no 'sample_index', on which masks depend: take ImageCollator or "
                "VideoCollator"
            )
        inputs = self.take_skipped(inputs)
        inputs.pop("labels", None)
        step = self.state.global_step if step is None else step
        epoch = int(self.state.epoch or 0) if epoch is None else epoch  # 1.5 in the middle of the second epoch
        index, name = inputs.pop("sample_index"), self.model.main_input_name
        if self.view_augmentation is not None:
            inputs[name] = self.view_augmentation(self._prepare_input(inputs[name]), index, epoch=epoch)
        if self.mask_sampler is not None:
            grids = [self.model.context_encoder.token_grid(x) for x in as_groups(inputs[name])]
            inputs |= draw_masks(self.mask_sampler, index, grids, step, epoch, self.samples)
        if self._takes_step:
            inputs["step"] = step
        return inputs

    def momentum(self, step: int) -> float:
        """Momentum of the target encoder's update after optimizer step `step` (from 0)."""
        horizon = self.args.schedule_scale * self.state.max_steps
        return momentum_at(step, horizon, self.args.start_momentum, self.args.final_momentum)

    # --- what people read ---------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._momentum_log() | self._details
            if self.collapse_monitor is not None:
                logs |= self.collapse_monitor.logs() | {"verdict": self.collapse_monitor.verdict}
        super().log(logs, start_time)

    def summary(self) -> dict[str, Any]:
        """The run in a few lines: steps, first and last loss, collapse signals and verdict, samples left out."""
        rows: dict[str, Any] = {"steps": self.state.global_step} | first_and_last(self.state.log_history)
        if self.collapse_monitor is not None and self.collapse_monitor.history:
            verdict = self.collapse_monitor.verdict
            rows |= self.collapse_monitor.logs() | {"verdict": verdict, "advice": ADVICE[verdict]}
        rows |= self._momentum_log() | self.throughput() | {f"skipped {self.samples}": len(self.skipped)}
        return rows | self.nonfinite_summary()

    def _momentum_log(self) -> dict[str, float]:
        if self.model.config.target_source != "ema":
            return {}
        return {"momentum": self.momentum(max(0, self.state.global_step - 1))}

    def _mean_loss(self, measured: EvalPrediction) -> dict[str, float]:
        """`eval_loss`: the mean over samples that could be read, each once, although processes fill up batches."""
        rows = zip(measured.label_ids, measured.predictions, strict=True)
        losses = {index: loss for index, loss in rows if index >= 0}
        if not losses:
            raise ValueError(f"none of the evaluation {self.samples} can be read")
        return {"loss": float(np.mean(list(losses.values()), dtype=np.float64))}

    def card_details(self) -> dict[str, Any]:
        rows = self.summary()
        shown = ("first loss", "last loss", *(field.name for field in fields(CollapseSignals)), "verdict")
        signals = {name: rows[name] for name in shown if name in rows}
        collapse = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in signals.items())
        return {
            "facts": {
                **self.adapter_facts(),
                **({} if self.mask_sampler is None else {"Masks": f"`{self.mask_sampler!r}`"}),
                **({} if self.view_augmentation is None else {"Views": f"`{self.view_augmentation!r}`"}),
                "Loss and collapse signals at the end": collapse,
            },
            "unverified": "No downstream score was measured in this run.",
        }


class _Report(ReportCallback):
    """The target encoder after a step, the summary at the end."""

    def __init__(self, trainer: JepaTrainer):
        super().__init__(trainer)
        self.average: Average | None = None

    def on_train_begin(self, args: JepaTrainingArguments, state, control, **kwargs):
        model = self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped)
        if args.context_loss_end_step > 0 and "context_loss_scale" not in signature(model.forward).parameters:
            raise ValueError(
                f"context_loss_end_step={args.context_loss_end_step}: {type(model).__name__} has no loss on visible "
                "tokens that could grow, only V-JEPA 2.1 has"
            )
        self.average = model.target_average() if model.config.target_source == "ema" else None
        if self.trainer.collapse_monitor is not None:
            self.trainer.collapse_monitor.restore(state.log_history)

    def on_step_end(self, args: JepaTrainingArguments, state, control, **kwargs):
        if self.average is not None and not self.trainer.accelerator.optimizer_step_was_skipped:
            with self.trainer.meter.averaging():
                self.average(self.trainer.momentum(state.global_step - 1), self.trainer.nonfinite)


__all__ = ["JepaTrainer"]
