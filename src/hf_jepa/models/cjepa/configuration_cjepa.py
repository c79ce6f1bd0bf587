"""C-JEPA configuration: that of I-JEPA, and VICReg's terms."""

from huggingface_hub.dataclasses import strict

from hf_jepa.core.validation import require_at_least, require_choices
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig


VICREG_SOURCES = ("predictor", "context")
VICREG_STATISTICS = ("per_block", "flat")


@strict
class CJepaConfig(IJepaConfig):
    """Configuration of a C-JEPA (contrastive JEPA).

    The loss is that of I-JEPA plus `vicreg_weight * (vicreg_invariance_weight * invariance + vicreg_variance_weight *
    variance + vicreg_covariance_weight * covariance)`. The paper leaves open what the terms are computed on, hence the
    choices. `model_type` is "cjepa_vicreg", because an unrelated Causal-JEPA goes by the short name, too.

    Args:
        vicreg_source: "predictor" takes each predicted block for a view, and any two blocks of an image are to agree;
            "context" regularises variance and covariance of what the context encoder says, and leaves the agreement to
            the prediction loss. Both take the mean over the tokens of a block, then the projector.
        vicreg_statistics: variance and covariance over the images of the batch for each block, then the mean over
            blocks ("per_block"), or over all blocks of all images at once ("flat").
        vicreg_weight: of all terms together (the paper's beta); 0 leaves them and the projector out.
        vicreg_invariance_weight, vicreg_variance_weight, vicreg_covariance_weight: of each.
        proj_hidden_size, proj_size: widths of the two-layer projector; `hidden_size` when unset.
        proj_batch_norm: a BatchNorm before the ReLU of the projector.
        others: see `IJepaConfig`.

    Example:
        >>> from hf_jepa import CJepaConfig
        >>> config = CJepaConfig.from_size("vit_base", vicreg_statistics="flat")
        >>> config.vicreg_weight, config.proj_size
        (0.001, 768)
    """

    model_type = "cjepa_vicreg"
    # Names of old files.
    attribute_map = {f"projector_{name}": f"proj_{name}" for name in ("hidden_size", "size", "batch_norm")}
    target_sources = ("ema", "frozen")

    vicreg_source: str = "predictor"
    vicreg_statistics: str = "per_block"
    vicreg_weight: float | int = 0.001
    vicreg_invariance_weight: float | int = 25.0
    vicreg_variance_weight: float | int = 25.0
    vicreg_covariance_weight: float | int = 1.0
    proj_hidden_size: int | None = None
    proj_size: int | None = None
    proj_batch_norm: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.proj_hidden_size is None:
            self.proj_hidden_size = self.hidden_size
        if self.proj_size is None:
            self.proj_size = self.hidden_size

    def validate_vicreg(self):
        require_choices(self, vicreg_source=VICREG_SOURCES, vicreg_statistics=VICREG_STATISTICS)
        terms = ("", "invariance_", "variance_", "covariance_")
        require_at_least(self, 0, (f"vicreg_{term}weight" for term in terms))
        require_at_least(self, 1, ("proj_hidden_size", "proj_size"))


__all__ = ["VICREG_SOURCES", "VICREG_STATISTICS", "CJepaConfig"]
