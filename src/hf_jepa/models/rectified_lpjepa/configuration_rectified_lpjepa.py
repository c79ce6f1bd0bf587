"""Rectified LpJEPA configuration: any image backbone, the rectified projector, and the target of RDMReg."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_jepa.core.multi_view_configuration import MultiViewConfigMixin
from hf_jepa.core.validation import require_at_least, require_choices
from hf_jepa.losses.rdmreg import PROJECTIONS
from hf_jepa.losses.rectified_gaussian import RectifiedGeneralizedGaussian


@strict
class RectifiedLpJepaConfig(MultiViewConfigMixin, PreTrainedConfig):
    """Configuration of a Rectified LpJEPA: a backbone, a projector that ends in a ReLU, and the target distribution.

    Args:
        backbone_config, pooling, proj_hidden_size, proj_size, batch_norm_scope, zero_init_residual: see
            `MultiViewConfigMixin`.
        invariance_weight: of the mean squared difference of the two views.
        rdmreg_weight: 125 on ImageNet-100; the paper takes 250 on CIFAR.
        rdmreg_p, rdmreg_mu, rdmreg_sigma_mode: the rectified generalised Gaussian that embeddings are drawn to, see
            `RectifiedGeneralizedGaussian`. The smaller p and mu, the sparser they get.
        rdmreg_num_projections, rdmreg_projections: how many directions are compared, and which, see `rdmreg`.
        target_source, target_normalization, loss_type: "shared", "none", "mse": the objective has no other form.

    Example:
        >>> from hf_jepa import RectifiedLpJepaConfig
        >>> config = RectifiedLpJepaConfig.from_size("resnet50", rdmreg_mu=-1.0)
        >>> round(config.target_distribution.prob_active, 3)
        0.122
    """

    model_type = "rectified_lpjepa"

    invariance_weight: float | int = 25.0
    rdmreg_weight: float | int = 125.0
    rdmreg_p: float | int = 1.0
    rdmreg_mu: float | int = 0.0
    rdmreg_sigma_mode: str = "sigma_GN"
    rdmreg_num_projections: int = 8192
    rdmreg_projections: str = "random"

    @property
    def target_distribution(self) -> RectifiedGeneralizedGaussian:
        """What embeddings are drawn to; its `prob_active` is the fraction of features that are then not zero."""
        return RectifiedGeneralizedGaussian(float(self.rdmreg_p), float(self.rdmreg_mu), self.rdmreg_sigma_mode)

    def validate_rectified_lpjepa(self):
        require_choices(self, rdmreg_projections=PROJECTIONS)
        require_at_least(self, 0, ("invariance_weight", "rdmreg_weight"))
        require_at_least(self, 1, ("rdmreg_num_projections",))
        try:
            _ = self.target_distribution
        except ValueError as error:
            raise ValueError(f"rdmreg_p, rdmreg_mu, rdmreg_sigma_mode: {error}") from error


__all__ = ["RectifiedLpJepaConfig"]
