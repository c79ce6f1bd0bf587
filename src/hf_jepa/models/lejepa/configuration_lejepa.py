"""LeJEPA configuration: any image backbone, the projector, and the weights of invariance and SIGReg."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_jepa.core.backbones import backbone_width
from hf_jepa.core.multi_view_configuration import MultiViewConfigMixin
from hf_jepa.core.validation import require_at_least, require_choices
from hf_jepa.losses.sigreg import INTERVALS


CENTRES = ("global", "all")
COMBINATIONS = ("convex", "additive")


@strict
class LeJepaConfig(MultiViewConfigMixin, PreTrainedConfig):
    """Configuration of a LeJEPA: a backbone, a projector, and the weight lambda of its regulariser.

    Args:
        backbone_config, pooling, proj_hidden_size, proj_size, batch_norm_scope, zero_init_residual: see
            `MultiViewConfigMixin`. Batch normalisation sees all views together, as in the official example.
        embedding_size: width of a linear layer behind the pooling, which belongs to the encoder; none when unset. The
            official example has one of 512.
        sigreg_weight: lambda, in [0, 1] where it is convex. SIGReg grows with the number of samples that it tests, so
            lambda belongs to a global batch size, unless `sigreg_scale_by_n` is off.
        combination: "convex" is (1 - lambda) invariance + lambda SIGReg, as in the paper; "additive" is invariance +
            lambda SIGReg, as in stable-pretraining.
        invariance_centre: what views are drawn to: the mean of the "global" views, as in the paper, or of "all", as in
            the official example.
        sigreg_flattened: test the rows of all views as one sample, as stable-pretraining does, instead of each view.
        sigreg_num_slices, sigreg_t_max, sigreg_num_points, sigreg_interval, sigreg_scale_by_n: see
            `hf_jepa.losses.sigreg.sigreg`.
        target_source, target_normalization, loss_type: "shared", "none", "mse": the objective has no other form.

    Example:
        >>> from hf_jepa import LeJepaConfig
        >>> config = LeJepaConfig.from_size("vit_small", backbone_config={"image_size": 128, "patch_size": 8})
        >>> config.hidden_size, config.image_size, config.sigreg_weight
        (384, 128, 0.05)
    """

    model_type = "lejepa"

    proj_size: int = 512
    batch_norm_scope: str = "all"
    embedding_size: int | None = None
    sigreg_weight: float | int = 0.05
    combination: str = "convex"
    invariance_centre: str = "global"
    sigreg_flattened: bool = False
    sigreg_num_slices: int = 1024
    sigreg_t_max: float | int = 3.0
    sigreg_num_points: int = 17
    sigreg_interval: str = "half"
    sigreg_scale_by_n: bool = True

    @property
    def hidden_size(self) -> int:
        """Width of the features of the encoder."""
        return self.embedding_size or backbone_width(self.backbone_config)

    def validate_lejepa(self):
        require_choices(self, combination=COMBINATIONS, invariance_centre=CENTRES, sigreg_interval=INTERVALS)
        if not 0 <= self.sigreg_weight <= (1 if self.combination == "convex" else float("inf")):
            raise ValueError(
                f"sigreg_weight must be 0 or more, and at most 1 where combination='convex', got {self.sigreg_weight}"
            )
        require_at_least(self, 1, ("embedding_size", "sigreg_num_slices"))
        if not 0 < self.sigreg_t_max < float("inf"):
            raise ValueError(f"sigreg_t_max must be above 0 and finite, got {self.sigreg_t_max}")
        require_at_least(self, 2, ("sigreg_num_points",))


__all__ = ["LeJepaConfig"]
