"""Watching a run for collapse: targets that no longer tell one image or clip from another."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import mean, median
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.nn.functional import cosine_similarity
from transformers.utils import logging

from hf_jepa.core.clips import as_groups
from hf_jepa.core.modeling import JepaPreTrainingMixin
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.evaluation.metrics import rankme
from hf_jepa.losses.prediction import normalize_targets
from hf_jepa.training.batches import by_mask, flat_masks, group_masks


logger = logging.get_logger(__name__)

MAX_TOKENS = 2048  # tokens that the effective rank looks at
MAX_COMPARED = 2**16  # target tokens that are looked at at all, for clips have very many
MAX_IMAGES = 8  # images that both encoders are compared on, which takes another pass of the target encoder
COLLAPSED_SHARE = 0.05  # of the targets' energy: below it, images are indistinguishable
COLLAPSED_RANK = 2.0
LEAST_DIFFERENCES = 3  # that a batch must hold, or also healthy targets would have so low a rank
# Below this part of the best value so far and still falling: shrinking. The rank varies more from batch to batch.
SHRINKING = {"image_share": 0.5, "rankme": 0.25}
WINDOW = 10  # of the last signals are compared with as many before; a quarter of all while there are fewer than 40
STEADY = 0.95  # their medians, one over the other: from here on it is not falling

ADVICE = {
    "healthy": "targets tell samples apart",
    "shrinking": "targets tell samples apart less and less. If this goes on: lower the learning rate, lengthen the "
    "warm-up, use a larger batch, or, with a target encoder, bring momentum closer to 1",
    "collapsed": "targets no longer tell samples apart, so a low loss means nothing. Start again with a lower "
    "learning rate or a longer warm-up, with a target encoder momentum closer to 1 and "
    "target_normalization='layer_norm'; in narrow models raise initializer_range (to about 1/sqrt(hidden_size)), or "
    "position codes drown the pixels",
}


@dataclass(frozen=True)
class CollapseSignals:
    """What the targets of one batch look like, and how near context encoder and predictor come to them.

    Images stand for clips, too.

    Args:
        target_std: standard deviation over images at one position, averaged over dimensions and positions. A target
            that only says where it is has none, although targets of different positions differ. Objectives that
            compare views are judged by the features of their first view instead of by targets.
        image_share: that variation over the total size of the targets, scale-free: near 0 is collapse.
        rankme: effective rank of the same variation, the number of directions in which images differ.
        prediction_target_cosine: mean cosine between prediction and target.
        context_target_cosine: mean cosine between context encoder and target encoder at the tokens that both see: how
            far the target encoder lags behind. None where nothing is left out of the context.
    """

    target_std: float
    image_share: float
    rankme: float
    prediction_target_cosine: float
    context_target_cosine: float | None = None


@torch.no_grad()
def collapse_signals(
    model: JepaPreTrainingMixin, inputs: dict[str, Any], output: JepaForPreTrainingOutput
) -> CollapseSignals | None:
    """Measure a batch.

    Args:
        model: the pretraining model.
        inputs: what it was called with. `context_mask`, E LongTensors (B, N), and `target_mask`, M LongTensors
            (B, K), of clips pairs of any lengths, also in several groups; or a `bool_masked_pos` or
            `mask_time_indices` (B, N).
        output: what it returned. With masks one tensor each, rows ordered (target mask, [context mask,] image), or a
            tuple of one tensor for every pair; with masked positions (n, D), in their order. Without masks
            predictions and targets of images or trajectories (B, N, D), or of views (V, B, P), with features (V, B, D)
            as `context`.

    Returns:
        the signals; None where too little can differ between images: up to three of them without positions, or fewer
        than three positions that are targets in two of them; and where targets are NaN or infinite. Groups of clips
        have positions of their own.

    Example:
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining, MultiBlockMaskSampler
        >>> model = IJepaForPreTraining(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     intermediate_size=32, image_size=32, patch_size=4, pred_hidden_size=8, pred_num_hidden_layers=1))
        >>> masks = MultiBlockMaskSampler(model.config.grid_size, min_keep=4)(torch.arange(4), step=0, epoch=0)
        >>> batch = {"pixel_values": torch.randn(4, 3, 32, 32)} | masks._asdict()
        >>> collapse_signals(model, batch, model(**batch)).rankme > 2
        True
    """
    position, image, tokens, cosine = _compared(inputs, output)
    once = _first_of_each(image * (position.max() + 1) + position)  # blocks of an image may overlap
    centred = _without_position_mean(tokens[once], position[once])
    context_target_cosine = None
    if "context_mask" in inputs and _width(output.context) == _width(output.targets):  # not a teacher's, or pixels
        # Before the return: where weights are sharded, all processes must take part in this pass of the encoder.
        context_target_cosine = _context_target_cosine(model, inputs, output.context)
    if len(centred) - _shared_positions(position[once]) < LEAST_DIFFERENCES or not tokens.isfinite().all():
        return None
    energy = tokens.square().mean()
    variance = centred.square().mean()
    stride = max(1, len(centred) // MAX_TOKENS)
    varied = centred[::stride]
    return CollapseSignals(
        target_std=variance.sqrt().item(),
        image_share=(variance / energy.clamp_min(1e-12)).sqrt().item(),
        rankme=rankme(varied.cpu()) if varied.square().sum() > 0 else 1.0,
        prediction_target_cosine=cosine.item(),
        context_target_cosine=context_target_cosine,
    )


def _compared(
    inputs: dict[str, Any], output: JepaForPreTrainingOutput
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Position and image (n,) of tokens that must differ between images, they (n, D), and the mean cosine."""
    if "target_mask" in inputs:
        masks = flat_masks(inputs["target_mask"])
        position, image, chosen = _places(group_masks(inputs["target_mask"]))
        targets, predictions = (_tokens(x, masks, chosen) for x in (output.targets, output.predictions))
        return position, image, targets, cosine_similarity(predictions, targets, dim=-1).mean()
    targets, predictions = output.targets.detach().float(), output.predictions.detach().float()
    if "pixel_values_videos" in inputs:  # of trajectories
        targets, predictions = _frames_in_rows(targets), _frames_in_rows(predictions)
    cosine = cosine_similarity(predictions, targets, dim=-1).mean()
    if hidden := [inputs[name] for name in ("bool_masked_pos", "mask_time_indices") if name in inputs]:
        image, position = hidden[0].nonzero(as_tuple=True)
        return position, image, targets, cosine
    pixels = inputs.get("pixel_values")
    if "pixel_values_videos" in inputs:  # which may have very many places
        tokens = targets[:, :: -(-targets.shape[:2].numel() // MAX_COMPARED)]
    elif not isinstance(pixels, torch.Tensor) or pixels.ndim == 5:  # views: their features must not collapse
        tokens = output.context[:1].detach().float().transpose(0, 1)
    else:
        tokens = targets
    places = torch.arange(tokens.shape[0] * tokens.shape[1], device=tokens.device)
    return places % tokens.shape[1], places // tokens.shape[1], tokens.flatten(0, 1), cosine


def _frames_in_rows(latents: torch.Tensor) -> torch.Tensor:
    """Latents of frames, vectors (B, T, D), tokens (B, T, N, D) or maps (B, T, D, H, W), as (B, places, D)."""
    latents = latents.movedim(2, -1) if latents.ndim == 5 else latents
    return latents.flatten(1, -2)


def _width(output: torch.Tensor | Sequence[torch.Tensor]) -> int:
    return (output if isinstance(output, torch.Tensor) else output[0]).shape[-1]


def _places(groups: list[list[torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Position and image of the target tokens (n,) that are compared, and which they are of all.

    Every group has positions of its own; its images are counted from 0. Of very many tokens those at every so many-th
    position are compared: there, all images are.
    """
    positions, images, first = [], [], 0
    for masks in groups:
        tokens = 1 + max(int(mask.max()) for mask in masks)
        for mask in masks:
            positions.append((mask + first).flatten())
            image = torch.arange(len(mask), device=mask.device)
            images.append(image.unsqueeze(1).expand_as(mask).flatten())
        first += tokens
    position, image = torch.cat(positions), torch.cat(images)
    every = -(-len(position) // MAX_COMPARED)
    chosen = (position % every == 0).nonzero().squeeze(1)
    return position[chosen], image[chosen], chosen


def _tokens(
    output: torch.Tensor | Sequence[torch.Tensor], masks: list[torch.Tensor], chosen: torch.Tensor
) -> torch.Tensor:
    """Tokens (n, D) of an output, in the order of its masks."""
    parts = by_mask(output, len(masks[0]))
    # The first context of every target block is enough: all contexts share the targets.
    parts = parts[:: len(parts) // len(masks)]
    return torch.cat([part.detach().flatten(0, 1) for part in parts])[chosen].float()


def _context_target_cosine(
    model: JepaPreTrainingMixin, inputs: dict[str, Any], context: torch.Tensor | Sequence[torch.Tensor]
) -> float:
    """Compare the encoders on the first images of every group; a single `context` has rows (context mask, image)."""
    groups = [[mask[:MAX_IMAGES] for mask in masks] for masks in group_masks(inputs["context_mask"])]
    images = [group[:MAX_IMAGES] for group in as_groups(inputs[model.main_input_name])]
    alone = len(groups) == 1
    targets = model.encode_targets(*(x[0] if alone else x for x in (images, groups)))
    contexts = [x[:MAX_IMAGES] for x in by_mask(context, len(flat_masks(inputs["context_mask"])[0]))]
    cosines = []
    for seen, target in zip(contexts, by_mask(targets, len(groups[0][0])), strict=True):
        levels = seen.unflatten(-1, (-1, model.config.hidden_size))  # of the encoder, normalised each
        seen = normalize_targets(levels, model.config.target_normalization).flatten(-2)
        cosines.append(cosine_similarity(seen.float(), target.float(), dim=-1).flatten())
    return torch.cat(cosines).mean().item()


def _first_of_each(key: torch.Tensor) -> torch.Tensor:
    """Indices at which a value stands for the first time. (n,) -> (n',)"""
    values, place = key.unique(return_inverse=True)
    order = torch.arange(len(key), device=key.device)
    return torch.full_like(values, len(key)).scatter_reduce(0, place, order, "amin")


def _without_position_mean(tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Subtract from every token the mean of the tokens at its position; lone tokens are left out. (n, D) -> (n', D)"""
    count = torch.bincount(position)
    total = tokens.new_zeros(len(count), tokens.shape[1]).index_add_(0, position, tokens)
    centred = tokens - (total / count.clamp_min(1).unsqueeze(1))[position]
    together = (count > 1)[position]
    # Unbiased: n tokens around their own mean have lost one degree of freedom.
    scale = (count / (count - 1).clamp_min(1)).sqrt()[position].unsqueeze(1)
    return (centred * scale)[together]


def _shared_positions(position: torch.Tensor) -> int:
    """Number of positions that occur more than once: as many degrees of freedom go with their means."""
    return int((torch.bincount(position) > 1).sum())


def mean_signals(signals: Sequence[CollapseSignals]) -> CollapseSignals:
    """The mean of every signal, over the processes of a run."""
    names = [field.name for field in fields(CollapseSignals) if getattr(signals[0], field.name) is not None]
    return CollapseSignals(**{name: mean(getattr(one, name) for one in signals) for name in names})


def gather_signals(signals: CollapseSignals | None) -> CollapseSignals | None:
    """The mean of what the processes of a run measured, for all of them; None where none could measure anything."""
    found = [one for one in gather_object([signals]) if one is not None]
    return mean_signals(found) if found else None


class CollapseMonitor:
    """Keeps the signals of a run and turns them into a verdict: healthy, shrinking or collapsed.

    Example:
        >>> monitor = CollapseMonitor()
        >>> cosines = {"context_target_cosine": 0.9, "prediction_target_cosine": 0.7}
        >>> monitor.add(CollapseSignals(target_std=0.6, image_share=0.6, rankme=40.0, **cosines)).verdict
        'healthy'
        >>> monitor.add(CollapseSignals(target_std=0.01, image_share=0.01, rankme=1.2, **cosines)).verdict
        'collapsed'
    """

    def __init__(self):
        self.history: list[CollapseSignals] = []
        self.verdict = "unknown"

    def add(self, signals: CollapseSignals) -> "CollapseMonitor":
        """Take note of the signals of a step; a verdict that gets worse is logged with advice."""
        self.history.append(signals)
        verdict = self._judge()
        if verdict != self.verdict and verdict != "healthy":
            logger.warning(f"collapse monitor: {verdict} - {ADVICE[verdict]} ({signals})")
        self.verdict = verdict
        return self

    def _judge(self) -> str:
        now = self.history[-1]
        if now.image_share < COLLAPSED_SHARE or now.rankme < COLLAPSED_RANK:
            return "collapsed"
        for name, part in SHRINKING.items():
            values = [getattr(signals, name) for signals in self.history]
            if values[-1] < part * max(values) and _is_falling(values):
                return "shrinking"
        return "healthy"

    def restore(self, log_history: list[dict]) -> None:
        """Begin with the signals that a run has logged before it was resumed."""
        names = [field.name for field in fields(CollapseSignals)]
        self.history = [
            CollapseSignals(**{name: entry[name] for name in names if name in entry})
            for entry in log_history
            if "rankme" in entry
        ]
        self.verdict = self._judge() if self.history else "unknown"

    def logs(self) -> dict[str, float]:
        """The last signals, as entries for a training log."""
        signals = vars(self.history[-1]) if self.history else {}
        return {name: value for name, value in signals.items() if value is not None}


def _is_falling(values: list[float]) -> bool:
    window = min(max(1, len(values) // 4), WINDOW)
    return median(values[-window:]) < STEADY * median(values[-2 * window : -window])


__all__ = ["ADVICE", "CollapseMonitor", "CollapseSignals", "collapse_signals", "gather_signals", "mean_signals"]
