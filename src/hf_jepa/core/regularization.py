"""Masked prediction without a moving average: SIGReg on what the one encoder says of whole samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature

import torch
from transformers.modeling_utils import PreTrainedModel

from hf_jepa.core.validation import require_at_least, require_choices
from hf_jepa.losses.sigreg import dense_sigreg, sigreg


REGULARIZED = ("dense", "pooled")


@dataclass(kw_only=True, repr=False)
class SigRegConfigMixin:
    """SIGReg (LeJEPA, 2511.08544) as what keeps an objective of masked prediction from collapse.

    With `target_source="shared"` (or "shared_stopgrad") the one encoder that is trained makes the targets, too, and
    nothing but this term keeps them from becoming equal. `loss = prediction_loss + sigreg_weight * sigreg`; the
    `(1 - lambda)` and `lambda` of LeJEPA are a weight of `lambda / (1 - lambda)`. A checkpoint that was trained with a
    target encoder goes on from that one.

    Args:
        sigreg_weight: of the term; 0 leaves it out. It belongs to a global batch size, because the statistic grows
            with the number of samples.
        sigreg_on: "dense" tests the tokens of every position over the samples of the batch (of `sigreg_positions`
            positions, others at every step); "pooled" tests the mean over tokens, which leaves the tokens themselves
            free to collapse.
        sigreg_positions: how many positions are tested at a step.
        sigreg_num_slices: random directions that are tested at a step.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> IJepaConfig(target_source="shared", sigreg_weight=0.02).sigreg_on
        'dense'
    """

    sigreg_weight: float | int = 0.0
    sigreg_on: str = "dense"
    sigreg_positions: int = 16
    sigreg_num_slices: int = 256

    def validate_sigreg(self):
        require_choices(self, sigreg_on=REGULARIZED)
        require_at_least(self, 0, ("sigreg_weight",))
        require_at_least(self, 1, ("sigreg_positions", "sigreg_num_slices"))
        if self.sigreg_weight and self.has_target_encoder:
            raise ValueError(
                f"sigreg_weight={self.sigreg_weight} regularises the encoder that makes the targets, but with "
                f"target_source={self.target_source!r} that one is not trained: set target_source='shared'"
            )


def sigreg_term(model: PreTrainedModel, tokens: Sequence[torch.Tensor], step: int | None) -> torch.Tensor | None:
    """The weighted term of a model, None where its config has none.

    Args:
        model: whose config has the fields of `SigRegConfigMixin`.
        tokens: of every group of samples what the encoder says of whole samples, (B, N, D).
        step: optimizer step, from which slices and positions are drawn.

    Returns:
        scalar, the mean over groups.

    Raises:
        ValueError: no step in training.
    """
    config = model.config
    if not config.sigreg_weight:
        return None
    options = {"step": require_step(model, step), "num_slices": config.sigreg_num_slices}
    if config.sigreg_on == "pooled":
        terms = [sigreg(x.mean(dim=1), **options) for x in tokens]
    else:
        terms = [dense_sigreg(x, num_positions=config.sigreg_positions, **options) for x in tokens]
    return config.sigreg_weight * torch.stack(terms).mean()


def require_step(model: PreTrainedModel, step: int | None) -> int:
    """The step that random draws of a loss are made from; 0 in evaluation unless given.

    Raises:
        ValueError: a model in training that was not told its step: all steps would draw the same.
    """
    if step is None and model.training:
        raise ValueError(
            f"{type(model).__name__} draws the directions of its loss from the number of the optimizer step: pass "
            "step=... (JepaTrainer does)"
        )
    return step or 0


def takes_step(model: PreTrainedModel) -> bool:
    """Whether a model wants to be told the step."""
    return _class_takes_step(type(model))


@cache  # asked at every step
def _class_takes_step(model_class: type) -> bool:
    return "step" in signature(model_class.forward).parameters


__all__ = ["REGULARIZED", "SigRegConfigMixin", "require_step", "sigreg_term", "takes_step"]
