"""What the collapse signals do not say: how hard the task of a batch is, and whether the encoders learn anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.nn.functional import cosine_similarity
from transformers import Trainer

from hf_jepa.core.clips import as_groups
from hf_jepa.core.modeling import JepaPreTrainingMixin
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.training.batches import by_mask, group_masks
from hf_jepa.training.engines import called_apart


MAX_PROBED = 16  # images that the encoders are compared on with what they were at the start
MAX_TASKS = 8  # images whose masks are measured


@dataclass(frozen=True)
class TaskSignals:
    """What one batch asks of the model, and what the model has made of it so far. Images stand for clips, too.

    Args:
        visible_targets: share of the target tokens that the context shows. Anything above 0 is a leak.
        target_distance: mean distance of a hidden target token to the nearest context token, in tokens along the
            axis on which they are farther apart. 1: every target has a visible neighbour.
        prediction_image_cosine: mean cosine between prediction and target, each less the mean over the images of the
            batch at its position: what is predicted of *this* image. 0 for predictions that only know the position.
    """

    visible_targets: float
    target_distance: float
    prediction_image_cosine: float


@torch.no_grad()
def task_signals(
    model: JepaPreTrainingMixin, inputs: dict[str, Any], output: JepaForPreTrainingOutput
) -> TaskSignals | None:
    """Measure a batch.

    Args:
        model: a pretraining model with masks.
        inputs: what it was called with, see `collapse_signals`.
        output: what it returned.

    Returns:
        the signals; None for a batch of one, in which nothing can be compared.

    Example:
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining, MultiBlockMaskSampler
        >>> model = IJepaForPreTraining(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     intermediate_size=32, image_size=32, patch_size=4, pred_hidden_size=8, pred_num_hidden_layers=1))
        >>> masks = MultiBlockMaskSampler(model.config.grid_size, min_keep=4)(torch.arange(4), step=0, epoch=0)
        >>> batch = {"pixel_values": torch.randn(4, 3, 32, 32)} | masks._asdict()
        >>> task_signals(model, batch, model(**batch)).visible_targets
        0.0
    """
    contexts, targets = group_masks(inputs["context_mask"]), group_masks(inputs["target_mask"])
    if max(len(masks[0]) for masks in targets) < 2:
        return None
    grids = [model.context_encoder.token_grid(images) for images in as_groups(inputs[model.main_input_name])]
    # A tuple of predictions: the masks are pairs. Otherwise every target is predicted from every context.
    paired = not isinstance(output.predictions, torch.Tensor)
    tasks = [
        _places(context, target, grid)
        for context, target, grid in zip(contexts, targets, grids, strict=True)
        for context, target in (zip(context, target, strict=True) if paired else [_joined(context, target)])
    ]
    visible, distance = (torch.cat(part) for part in zip(*tasks, strict=True))
    return TaskSignals(
        visible_targets=visible.float().mean().item(),
        target_distance=distance[~visible].mean().item() if (~visible).any() else 0.0,
        prediction_image_cosine=_image_cosine(output, targets),
    )


def _joined(context: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat(list(context), dim=1), torch.cat(list(target), dim=1)


def _places(context: torch.Tensor, target: torch.Tensor, grid: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each target token (n,) is in the context of its image, and how far the nearest context token is."""
    places = torch.stack(torch.unravel_index(torch.arange(math.prod(grid), device=context.device), grid), dim=-1)
    places = places.float()  # (N, axes)
    nearest = [
        torch.cdist(places[wanted], places[seen], p=math.inf).amin(dim=1)
        for seen, wanted in zip(context[:MAX_TASKS], target[:MAX_TASKS], strict=True)
    ]
    distance = torch.cat(nearest)
    return distance == 0, distance


def _image_cosine(output: JepaForPreTrainingOutput, targets: list[list[torch.Tensor]]) -> float:
    rows = len(targets[0][0])
    predicted, wanted = (by_mask(x, rows) for x in (output.predictions, output.targets))
    repeated = len(predicted) // sum(len(masks) for masks in targets)  # contexts, each of which predicts all targets
    cosines = []
    for masks in targets:
        names = torch.cat([mask.flatten() for mask in masks for _ in range(repeated)])
        count = len(masks) * repeated
        pair = [torch.cat([x.detach().float().flatten(0, 1) for x in each[:count]]) for each in (predicted, wanted)]
        predicted, wanted = predicted[count:], wanted[count:]
        shared = (torch.bincount(names) > 1)[names]
        cosines.append(cosine_similarity(*(_less_position_mean(x, names) for x in pair), dim=-1)[shared])
    cosines = torch.cat(cosines)
    return cosines.mean().item() if len(cosines) else 0.0


def _less_position_mean(tokens: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
    """Tokens (n, D) less the mean of those of the same name (n,)."""
    count = torch.bincount(names).clamp_min(1).unsqueeze(1)
    total = tokens.new_zeros(len(count), tokens.shape[1]).index_add_(0, names, tokens)
    return tokens - (total / count)[names]


class EncoderChange:
    """How far the encoders have come since the start: 1 less the linear CKA of their features of the same images.

    The features are the tokens of all places of a few images of the first batch, less their mean over images, so that
    position codes play no part. Linear CKA (Kornblith et al., 1905.00414) does not see rotations and scale: 0 is a
    function that says what it said at the start, whatever happened to the weights.

    Example:
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining
        >>> model = IJepaForPreTraining(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     intermediate_size=32, image_size=32, patch_size=4, pred_hidden_size=8, pred_num_hidden_layers=1))
        >>> change = EncoderChange(torch.randn(4, 3, 32, 32), model)
        >>> {name: round(abs(value), 3) for name, value in change.measure(model).items()}
        {'context_change': 0.0, 'target_change': 0.0}
    """

    def __init__(self, images: torch.Tensor, model: JepaPreTrainingMixin):
        self.images = images[:MAX_PROBED].clone()
        self._start = self._features(model)

    def measure(self, model: JepaPreTrainingMixin) -> dict[str, float]:
        now = self._features(model)
        return {f"{name}_change": 1.0 - _linear_cka(now[name], start) for name, start in self._start.items()}

    @torch.no_grad()
    def _features(self, model: JepaPreTrainingMixin) -> dict[str, torch.Tensor]:
        encoders = {"context": model.context_encoder, "target": model.target_encoder}
        training = model.training
        model.eval()  # without dropout
        try:
            # (B, N, D)
            tokens = called_apart(
                model, lambda: {name: encoder(self.images).last_hidden_state for name, encoder in encoders.items()}
            )
        finally:
            model.train(training)
        return {name: (x - x.mean(dim=0)).float().flatten(0, 1) for name, x in tokens.items()}


def _linear_cka(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two sets of centred features (n, D): 1 where one is a rotation of the other, times any scale."""
    between, within = (a.T @ b).square().sum(), (a.T @ a).norm() * (b.T @ b).norm()
    return (between / within.clamp_min(1e-30)).item()


class GradientAgreement:
    """Mean cosine between the gradients of one step and the next, of the last matrix of the context encoder.

    With noise of variance s / batch around a gradient G it is about |G|^2 / (|G|^2 + s / batch): near 1 batches agree
    on where to go, near 0 a step mostly undoes the last. Also that of a healthy run falls when there is little left to
    learn, so that it says something of the batch size early in a run only.

    Example:
        >>> agreement = GradientAgreement()
        >>> for gradient in ([1.0, 0.0], [1.0, 0.0], [1.0, 1.0]):
        ...     agreement.add(torch.tensor(gradient))
        >>> round(agreement.take(), 3)
        0.854
    """

    def __init__(self):
        self._last: torch.Tensor | None = None
        self._cosines: list[torch.Tensor] = []  # of no dimension, on the device

    def add(self, gradient: torch.Tensor) -> None:
        now = gradient.detach().float().flatten()
        if self._last is not None:
            self._cosines.append(cosine_similarity(now, self._last, dim=0))
        self._last = now.clone()

    def take(self) -> float | None:
        """The mean since the last call; None where there were fewer than two gradients."""
        cosines, self._cosines = self._cosines, []
        return torch.stack(cosines).mean().item() if cosines else None


class TaskSignalsMixin:
    """A `Trainer` that logs `TaskSignals`, `EncoderChange` and `GradientAgreement`, where the collapse monitor is on.

    The trainer it is mixed into has `collapse_monitor` and `_logs_this_step`. Runs without masks are left alone, and
    so are groups of clips where a change of the encoders would be measured.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._task: dict[str, float] = {}
        self._change: EncoderChange | None = None
        self._asked = False  # whether the encoders can be compared with those of the start
        self._agreement = GradientAgreement()

    def compute_loss(self: Trainer, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        watched = self.collapse_monitor is not None and "target_mask" in inputs and self.model.training
        single = self.accelerator.unwrap_model(model)
        images = inputs.get(single.main_input_name)
        has_teacher = single.config.target_source in ("ema", "frozen")
        if watched and has_teacher and self._change is None and not self._asked:
            # Once all processes or none: under sharding a pass of an encoder needs them all.
            self._asked = self.accelerator.num_processes > 1
            if all(gather_object([isinstance(images, torch.Tensor) and len(images) > 1])):
                self._change = EncoderChange(images, single)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if watched and self._logs_this_step():
            self._task = self._measure(single, inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    def _measure(self, model: JepaPreTrainingMixin, inputs: dict[str, Any], outputs) -> dict[str, float]:
        found = task_signals(model, inputs, outputs)
        change = self._change.measure(model) if self._change is not None else {}
        gathered = [each for each in gather_object([found and vars(found) | change]) if each is not None]
        return {name: fmean(each[name] for each in gathered) for name in gathered[0]} if gathered else {}

    def training_step(self: Trainer, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.collapse_monitor is not None and self.accelerator.sync_gradients:
            encoder = self.accelerator.unwrap_model(model).context_encoder
            matrices = [parameter for parameter in encoder.parameters() if parameter.ndim >= 2]
            # DeepSpeed keeps gradients elsewhere, FSDP a part of each in every process.
            if matrices and matrices[-1].grad is not None and not self.is_fsdp_enabled:
                self._agreement.add(matrices[-1].grad)
        return loss

    def log(self: Trainer, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._task
            if (agreement := self._agreement.take()) is not None:
                logs["gradient_agreement"] = agreement
        super().log(logs, start_time)


SIGNALS = (*(field.name for field in fields(TaskSignals)), "context_change", "target_change", "gradient_agreement")

__all__ = ["SIGNALS", "EncoderChange", "GradientAgreement", "TaskSignals", "TaskSignalsMixin", "task_signals"]
