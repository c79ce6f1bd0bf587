"""Rectified LpJEPA (Kuang et al. 2026, arXiv 2602.01456): views agree, embeddings are sparse and non-negative.

A LeJEPA whose target is not a Gaussian but a rectified generalised Gaussian, which is zero with a chosen probability:
the projector ends in a ReLU, and sorted projections are compared with those of samples instead of a closed form.
"""

from dataclasses import dataclass

import torch
from torch import nn

from hf_jepa.core.multi_view import MultiViewModelMixin, MultiViewPreTrainedModel, MultiViewPreTrainingMixin
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.core.regularization import require_step
from hf_jepa.layers.projector import Projector
from hf_jepa.losses.distributed import full_precision, global_mean
from hf_jepa.losses.rdmreg import l0_metric, rdmreg
from hf_jepa.models.rectified_lpjepa.configuration_rectified_lpjepa import RectifiedLpJepaConfig


@dataclass
class RectifiedLpJepaForPreTrainingOutput(JepaForPreTrainingOutput):
    """Output of `RectifiedLpJepaForPreTraining`.

    Args:
        l0: scalar, the fraction of features of the embeddings that are not zero. Much below `prob_active` of the
            config's target distribution, features have died: no gradient reaches a unit that is zero everywhere.
    """

    l0: torch.FloatTensor | None = None


class RectifiedLpJepaPreTrainedModel(MultiViewPreTrainedModel):
    """Flags and initialisation of all Rectified LpJEPA classes."""

    config: RectifiedLpJepaConfig
    base_model_prefix = "rectified_lpjepa"


class RectifiedLpJepaModel(MultiViewModelMixin, RectifiedLpJepaPreTrainedModel):
    """The encoder of a Rectified LpJEPA: a backbone and its pooling. Loads pretraining checkpoints.

    Example:
        >>> import torch
        >>> from hf_jepa import RectifiedLpJepaConfig, RectifiedLpJepaModel
        >>> config = RectifiedLpJepaConfig(backbone_config={"model_type": "resnet", "embedding_size": 8,
        ...                                                 "hidden_sizes": [16, 32], "depths": [1, 1]})
        >>> RectifiedLpJepaModel(config)(torch.randn(2, 3, 64, 48)).pooler_output.shape
        torch.Size([2, 32])
    """


class RectifiedLpJepaForPreTraining(MultiViewPreTrainingMixin, RectifiedLpJepaPreTrainedModel):
    """Encoder (`rectified_lpjepa`) and rectified projector with invariance and RDMReg of two views.

    Example:
        >>> import torch
        >>> from hf_jepa import RectifiedLpJepaConfig, RectifiedLpJepaForPreTraining
        >>> config = RectifiedLpJepaConfig(proj_hidden_size=64, proj_size=32, rdmreg_num_projections=64,
        ...     backbone_config={"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 32],
        ...                      "depths": [1, 1]})
        >>> out = RectifiedLpJepaForPreTraining(config)(torch.randn(4, 2, 3, 32, 32), step=0)
        >>> out.loss.backward()
        >>> bool(0.2 < out.l0 < 0.8)
        True
    """

    encoder_class = RectifiedLpJepaModel
    output_class = RectifiedLpJepaForPreTrainingOutput
    num_views = 2

    def add_heads(self, config: RectifiedLpJepaConfig) -> None:
        hidden = config.proj_hidden_size
        self.projector = Projector([config.hidden_size, hidden, hidden, config.proj_size]).append(nn.ReLU())

    def objective(self, embeddings: torch.Tensor, num_global_views: int, step: int | None) -> dict[str, torch.Tensor]:
        """The terms of the loss; each view is compared with the other."""
        config = self.config
        first, second = full_precision(embeddings)
        regularization = config.rdmreg_weight * rdmreg(
            first,
            second,
            step=require_step(self, step),
            distribution=config.target_distribution,
            num_projections=config.rdmreg_num_projections,
            projections=config.rdmreg_projections,
        )
        prediction = config.invariance_weight * global_mean((first - second).square())
        return {
            "loss": prediction + regularization,
            "prediction_loss": prediction,
            "regularization_loss": regularization,
            "predictions": embeddings,
            "targets": embeddings.detach().flip(0),
            "l0": l0_metric(embeddings.detach()),
        }


__all__ = [
    "RectifiedLpJepaForPreTraining",
    "RectifiedLpJepaForPreTrainingOutput",
    "RectifiedLpJepaModel",
    "RectifiedLpJepaPreTrainedModel",
]
