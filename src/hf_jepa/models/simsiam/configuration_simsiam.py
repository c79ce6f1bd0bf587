"""SimSiam configuration: any image backbone, the projector and the predictor."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_jepa.core.multi_view_configuration import MultiViewConfigMixin
from hf_jepa.core.validation import require_at_least


@strict
class SimSiamConfig(MultiViewConfigMixin, PreTrainedConfig):
    """Configuration of a SimSiam: a backbone, a projector and a predictor.

    Args:
        backbone_config, pooling, batch_norm_scope, zero_init_residual: see `MultiViewConfigMixin`. The official
            ResNets start with `zero_init_residual`.
        proj_hidden_size: width of the two hidden layers of the projector; that of the features when unset, as in the
            official code.
        proj_size: width of the embeddings.
        pred_hidden_size: width of the hidden layer of the predictor.
        target_source, target_normalization, loss_type: "shared_stopgrad", "none", "cosine": the objective has no other
            form.

    Example:
        >>> from hf_jepa import SimSiamConfig
        >>> SimSiamConfig.from_size("resnet18").proj_hidden_size
        512
    """

    model_type = "simsiam"
    target_sources: ClassVar[tuple[str, ...]] = ("shared_stopgrad",)
    loss_types: ClassVar[tuple[str, ...]] = ("cosine",)

    proj_hidden_size: int | None = None
    pred_hidden_size: int = 512
    target_source: str = "shared_stopgrad"
    loss_type: str = "cosine"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.proj_hidden_size is None:
            self.proj_hidden_size = self.hidden_size

    def validate_simsiam(self):
        require_at_least(self, 1, ("pred_hidden_size",))


__all__ = ["SimSiamConfig"]
