"""VICReg configuration: any image backbone, the expander, and the weights of the three terms."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_jepa.core.multi_view_configuration import MultiViewConfigMixin
from hf_jepa.core.validation import require_at_least, require_choices
from hf_jepa.losses.vicreg import SCALINGS


@strict
class VicRegConfig(MultiViewConfigMixin, PreTrainedConfig):
    """Configuration of a VICReg: a backbone, a projector ("expander") and the weights of the terms.

    Args:
        backbone_config, pooling, batch_norm_scope, zero_init_residual: see `MultiViewConfigMixin`. The official
            ResNets start with `zero_init_residual`.
        proj_hidden_size, proj_size: widths of the expander.
        scaling: which implementation's scaling of the terms: "official", "solo_learn" or "eb_jepa", see `vicreg_loss`.
        invariance_weight, variance_weight, covariance_weight: those of the scaling when unset; officially 25, 25, 1.
        target_source, target_normalization, loss_type: "shared", "none", "mse": the objective has no other form.

    Example:
        >>> from hf_jepa import VicRegConfig
        >>> config = VicRegConfig.from_size("resnet50", zero_init_residual=True)
        >>> config.hidden_size, config.proj_size
        (2048, 8192)
    """

    model_type = "vicreg"

    proj_hidden_size: int = 8192
    proj_size: int = 8192
    scaling: str = "official"
    invariance_weight: float | int | None = None
    variance_weight: float | int | None = None
    covariance_weight: float | int | None = None

    def validate_vicreg(self):
        require_choices(self, scaling=SCALINGS)
        require_at_least(self, 0, ("invariance_weight", "variance_weight", "covariance_weight"))


__all__ = ["VicRegConfig"]
