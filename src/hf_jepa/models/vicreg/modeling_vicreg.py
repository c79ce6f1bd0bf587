"""VICReg (Bardes, Ponce and LeCun 2021, arXiv 2105.04906): two views agree, features vary and are uncorrelated.

A baseline of the family without teacher, stop-gradient or predictor. LeJEPA replaces its variances and covariances by
a test of the whole distribution.
"""

import torch

from hf_jepa.core.multi_view import MultiViewModelMixin, MultiViewPreTrainedModel, MultiViewPreTrainingMixin
from hf_jepa.layers.projector import Projector
from hf_jepa.losses.vicreg import SCALINGS, vicreg_loss
from hf_jepa.models.vicreg.configuration_vicreg import VicRegConfig


class VicRegPreTrainedModel(MultiViewPreTrainedModel):
    """Flags and initialisation of all VICReg classes."""

    config: VicRegConfig
    base_model_prefix = "vicreg"


class VicRegModel(MultiViewModelMixin, VicRegPreTrainedModel):
    """The encoder of a VICReg: a backbone and its pooling. Loads pretraining checkpoints.

    Example:
        >>> import torch
        >>> from hf_jepa import VicRegConfig, VicRegModel
        >>> config = VicRegConfig(backbone_config={"model_type": "resnet", "embedding_size": 8,
        ...                                        "hidden_sizes": [16, 32], "depths": [1, 1]})
        >>> VicRegModel(config)(torch.randn(2, 3, 64, 48)).pooler_output.shape
        torch.Size([2, 32])
    """


class VicRegForPreTraining(MultiViewPreTrainingMixin, VicRegPreTrainedModel):
    """Encoder (`vicreg`) and projector with the VICReg loss of two views.

    Example:
        >>> import torch
        >>> from hf_jepa import VicRegConfig, VicRegForPreTraining
        >>> config = VicRegConfig(proj_hidden_size=64, proj_size=64, backbone_config={
        ...     "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]})
        >>> out = VicRegForPreTraining(config)(torch.randn(4, 2, 3, 32, 32))
        >>> out.loss.backward()
        >>> out.predictions.shape
        torch.Size([2, 4, 64])
    """

    encoder_class = VicRegModel
    num_views = 2

    def add_heads(self, config: VicRegConfig) -> None:
        hidden = config.proj_hidden_size
        self.projector = Projector([config.hidden_size, hidden, hidden, config.proj_size], bias=False)

    def objective(self, embeddings: torch.Tensor, num_global_views: int, step: int | None) -> dict[str, torch.Tensor]:
        """The terms of the loss; each view is compared with the other."""
        config = self.config
        weight = config.invariance_weight
        if weight is None:
            weight = SCALINGS[config.scaling].invariance_weight
        terms = vicreg_loss(*embeddings, config.scaling, weight, config.variance_weight, config.covariance_weight)
        prediction = weight * terms.invariance
        return {
            "loss": terms.loss,
            "prediction_loss": prediction,
            "regularization_loss": terms.loss - prediction,
            "predictions": embeddings,
            "targets": embeddings.detach().flip(0),
        }


__all__ = ["VicRegForPreTraining", "VicRegModel", "VicRegPreTrainedModel"]
