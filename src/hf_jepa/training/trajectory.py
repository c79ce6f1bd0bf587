"""`TrajectoryTrainer`: transformers' `Trainer` for world models, which learn from frames and the actions between."""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, TrainerCallback
from transformers.utils import logging

from hf_jepa.core.regularization import takes_step
from hf_jepa.training.clipping import ClippingMixin
from hf_jepa.training.collapse import ADVICE, CollapseMonitor, collapse_signals, gather_signals
from hf_jepa.training.epochs import SetEpochCallback
from hf_jepa.training.reports import ReportCallback, first_and_last, last_logged
from hf_jepa.training.run import RunTrainer
from hf_jepa.training.run_cards import trained_of_all
from hf_jepa.training.scheduled import ScheduleMixin
from hf_jepa.training.skipped import SkippedSamplesMixin
from hf_jepa.training.step_weights import StepWeightsMixin
from hf_jepa.training.trajectory_arguments import TrajectoryTrainingArguments


logger = logging.get_logger(__name__)


class TrajectoryTrainer(StepWeightsMixin, SkippedSamplesMixin, ScheduleMixin, ClippingMixin, RunTrainer):
    """Trains a world model on batches of a `TrajectoryCollator`.

    A batch has `pixel_values_videos` (B, T, C, H, W), `actions` (B, T - 1, A) and `states` (B, T, P) as far as the
    data has them, `sample_index` (B,), and optionally `skipped`, what could not be read. The model gets all but the
    last two, and the number of the step where it asks for it.

    Args:
        model: a pretraining model of a world model: `context_encoder`, `predictor`, and a call that returns a
            `JepaForPreTrainingOutput`, whose `targets` and `predictions` are (B, K, D). What is frozen in it is not
            in the optimizer.
        args: `TrajectoryTrainingArguments`.
        kwargs: as for `Trainer`.

    Logs say beside the loss every scalar of the output (`prediction_loss`, `regularization_loss`, and those that a
    variant adds), and whether targets still tell samples apart, see `CollapseMonitor`. Evaluation reports the mean of
    the same scalars.

    Raises:
        ValueError: batches without "sample_index", a model with nothing to train.
        FloatingPointError, ValueError: see also `GuardMixin`, `SkippedSamplesMixin` and `ClippingMixin`.

    Example:
        >>> import tempfile
        >>> from hf_jepa import VARIANTS, EbJepaConfig, EbJepaForPreTraining
        >>> from hf_jepa.data.two_rooms import TwoRooms, TwoRoomsCollator
        >>> model = EbJepaForPreTraining(EbJepaConfig(**VARIANTS["eb_jepa"].tiny))
        >>> options = {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True, "save_strategy": "no"}
        >>> trainer = TrajectoryTrainer(
        ...     model,
        ...     TrajectoryTrainingArguments(tempfile.mkdtemp(), report_to="none", disable_tqdm=True, **options),
        ...     train_dataset=TwoRooms(8, num_frames=model.config.frames_per_clip),
        ...     data_collator=TwoRoomsCollator(model.config.image_size),
        ... )
        >>> trainer.train().global_step  # doctest: +ELLIPSIS
        {'train_runtime...
        2
    """

    samples = "trajectories"

    def __init__(
        self,
        model: nn.Module,
        args: TrajectoryTrainingArguments,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ):
        if kwargs.pop("compute_metrics", None) is not None:
            raise ValueError("compute_metrics: evaluation measures the terms of the loss; planning judges the model")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(f"{type(model).__name__} has no trainable parameter")
        callbacks = [SetEpochCallback(), _Report(self), *(callbacks or [])]
        super().__init__(model=model, args=args, callbacks=callbacks, compute_metrics=self._mean_terms, **kwargs)
        self.collapse_monitor = CollapseMonitor() if args.collapse_monitor else None
        self._sizes = trained_of_all(model)
        self._terms: dict[str, float] = {}
        self._term_names: list[str] = []
        self._takes_step = takes_step(model)

    # --- a step -------------------------------------------------------------------------------------------------

    def training_step(self, model, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        return super().training_step(model, self._complete(inputs, self.state.global_step), num_items_in_batch)

    def _complete(self, inputs: dict[str, Any], step: int) -> dict[str, Any]:
        """The arguments of the model: without bookkeeping, with the number of the step."""
        if "sample_index" not in inputs:
            raise ValueError(f"the batch has {sorted(inputs)} but no 'sample_index': take TrajectoryCollator")
        inputs = self.take_skipped(inputs)
        del inputs["sample_index"]
        if self._takes_step:
            inputs["step"] = step
        return inputs

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self._logs_this_step():  # reads values on the host: only then
            self._note(inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    def _note(self, inputs: dict[str, Any], outputs: Any) -> None:
        """Keep what the log of this step shall say beside the loss, the mean over processes."""
        terms = loss_terms(outputs)
        if terms:
            values = self.accelerator.reduce(torch.stack(list(terms.values())), reduction="mean").tolist()
            self._terms = dict(zip(terms, values, strict=True))
        if self.collapse_monitor is None:
            return
        signals = None if self._batch_is_blank else collapse_signals(self.model, inputs, outputs)
        if (found := gather_signals(signals)) is not None:
            self.collapse_monitor.add(found)
        elif outputs.loss.isfinite():
            logger.warning_once("batches of so few trajectories cannot show a collapse: the monitor skips them")

    # --- evaluation ---------------------------------------------------------------------------------------------

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluation measures the terms of the loss; every trajectory has those of its batch.

        Returns:
            None; loss and terms (B, n); sample indices (B,), -1 in the place of those that could not be read.
        """
        sample_index = inputs["sample_index"].to(self.args.device)
        inputs = self._prepare_inputs(self._complete(inputs, step=0))
        if self._batch_is_blank:
            sample_index = torch.full((len(inputs["pixel_values_videos"]),), -1, device=self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        terms = {"loss": outputs.loss.float()} | loss_terms(outputs)
        self._term_names = list(terms)
        rows = torch.stack(list(terms.values())).expand(len(sample_index), -1)
        missing = max(0, self.args.eval_batch_size - len(sample_index))  # all processes hand in equally many
        rows = nn.functional.pad(rows, (0, 0, 0, missing))
        return None, rows, nn.functional.pad(sample_index, (0, missing), value=-1)

    def _mean_terms(self, measured: EvalPrediction) -> dict[str, float]:
        """The means over trajectories that could be read, each once, although processes fill up batches."""
        rows = zip(measured.label_ids, measured.predictions, strict=True)
        found = {int(index): terms for index, terms in rows if index >= 0}
        if not found:
            raise ValueError(f"none of the evaluation {self.samples} can be read")
        means = np.mean(np.stack(list(found.values())), axis=0, dtype=np.float64)
        return dict(zip(self._term_names, means.tolist(), strict=True))

    # --- what people read ---------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._terms
            if self.collapse_monitor is not None:
                logs |= self.collapse_monitor.logs() | {"verdict": self.collapse_monitor.verdict}
        super().log(logs, start_time)

    def summary(self) -> dict[str, Any]:
        """The run in a few lines: steps, first and last of what was logged, verdict, trajectories left out."""
        rows: dict[str, Any] = {"steps": self.state.global_step}
        rows |= first_and_last(self.state.log_history, ("loss", *self._terms))
        if self.collapse_monitor is not None and self.collapse_monitor.history:
            verdict = self.collapse_monitor.verdict
            rows |= self.collapse_monitor.logs() | {"verdict": verdict, "advice": ADVICE[verdict]}
        rows |= self.throughput() | {f"skipped {self.samples}": len(self.skipped)}
        return rows | self.nonfinite_summary()

    def card_details(self) -> dict[str, Any]:
        last = last_logged(self.state.log_history)
        shown = ("loss", *self._terms, "image_share", "rankme", "verdict")
        told = [f"{name} {last[name]:.4g}" if name != "verdict" else last[name] for name in shown if name in last]
        facts = {"Trained values": "{:,} of {:,}".format(*self._sizes)}
        if told:
            facts["At the end"] = ", ".join(told)
        measured = {name: last[name] for name in last if name.startswith("eval_") and name.endswith("loss")}
        if measured:
            facts["On evaluation trajectories"] = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
        return {"facts": facts, "unverified": "No planning task was measured in this run."}


class _Report(ReportCallback):
    """The signals of a run that is resumed, the table after it."""

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer.collapse_monitor is not None:
            self.trainer.collapse_monitor.restore(state.log_history)


def loss_terms(outputs: Any) -> dict[str, torch.Tensor]:
    """The scalars of an output beside its loss, by name, in float32 and without gradient.

    Example:
        >>> from hf_jepa.core.outputs import JepaForPreTrainingOutput
        >>> list(loss_terms(JepaForPreTrainingOutput(loss=torch.ones(()), prediction_loss=torch.ones(()))))
        ['prediction_loss']
    """
    return {
        name: value.detach().float()
        for name, value in outputs.items()
        if name != "loss" and isinstance(value, torch.Tensor) and value.ndim == 0
    }


__all__ = ["TrajectoryTrainer", "TrajectoryTrainingArguments", "loss_terms"]
