"""The config fields that say what a JEPA's loss is; every variant's config mixes them in."""

from dataclasses import dataclass

from hf_jepa.losses.prediction import LOSSES, NORMALIZATIONS


TARGET_SOURCES = ("ema", "frozen")


@dataclass(kw_only=True)
class JepaConfigMixin:
    """What is predicted and how the prediction is judged.

    Args:
        target_source: where targets come from: "ema", an encoder that follows the context encoder as an exponential
            moving average, or "frozen", an encoder that is never updated (a given teacher).
        target_normalization: "layer_norm" (without learnt scale) or "none", see `normalize_targets`.
        loss_type: "smooth_l1", "l1" or "mse", see `prediction_loss`.
    """

    target_source: str = "ema"
    target_normalization: str = "layer_norm"
    loss_type: str = "smooth_l1"

    def validate_objective(self):
        choices = {"target_source": TARGET_SOURCES, "target_normalization": NORMALIZATIONS, "loss_type": tuple(LOSSES)}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r} is not one of {', '.join(allowed)}")


__all__ = ["TARGET_SOURCES", "JepaConfigMixin"]
