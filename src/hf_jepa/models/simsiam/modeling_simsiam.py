"""SimSiam (Chen and He 2020, arXiv 2011.10566): a predictor says of one view what the encoder makes of the other.

A baseline of the family without a regulariser: the targets come from the same encoder, without gradient, and that
alone keeps the embeddings from collapsing.
"""

import torch
from torch import nn

from hf_jepa.core.multi_view import MultiViewModelMixin, MultiViewPreTrainedModel, MultiViewPreTrainingMixin
from hf_jepa.layers.projector import Projector
from hf_jepa.losses.prediction import prediction_loss
from hf_jepa.models.simsiam.configuration_simsiam import SimSiamConfig


class FrozenBiasLinear(nn.Linear):
    """A linear layer whose bias is never trained: a buffer, so that loading leaves it so.

    The batch normalisation behind it takes any bias away again; the official code keeps it, frozen.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)
        del self.bias
        self.register_buffer("bias", torch.zeros(out_features))


class SimSiamPreTrainedModel(MultiViewPreTrainedModel):
    """Flags and initialisation of all SimSiam classes."""

    config: SimSiamConfig
    base_model_prefix = "simsiam"


class SimSiamModel(MultiViewModelMixin, SimSiamPreTrainedModel):
    """The encoder of a SimSiam: a backbone and its pooling. Loads pretraining checkpoints.

    Example:
        >>> import torch
        >>> from hf_jepa import SimSiamConfig, SimSiamModel
        >>> config = SimSiamConfig(backbone_config={"model_type": "resnet", "embedding_size": 8,
        ...                                         "hidden_sizes": [16, 32], "depths": [1, 1]})
        >>> SimSiamModel(config)(torch.randn(2, 3, 64, 48)).pooler_output.shape
        torch.Size([2, 32])
    """


class SimSiamForPreTraining(MultiViewPreTrainingMixin, SimSiamPreTrainedModel):
    """Encoder (`simsiam`), projector and predictor with the SimSiam loss of two views.

    Example:
        >>> import torch
        >>> from hf_jepa import SimSiamConfig, SimSiamForPreTraining
        >>> config = SimSiamConfig(proj_size=64, pred_hidden_size=16, backbone_config={
        ...     "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]})
        >>> out = SimSiamForPreTraining(config)(torch.randn(4, 2, 3, 32, 32))
        >>> out.loss.backward()
        >>> out.predictions.shape
        torch.Size([2, 4, 64])
    """

    encoder_class = SimSiamModel
    num_views = 2

    def add_heads(self, config: SimSiamConfig) -> None:
        hidden, size = config.proj_hidden_size, config.proj_size
        self.projector = Projector([config.hidden_size, hidden, hidden, size], hidden_bias=False)
        self.projector[-1] = FrozenBiasLinear(hidden, size)
        self.projector.append(nn.BatchNorm1d(size, affine=False))
        self.predictor = Projector([size, config.pred_hidden_size, size], hidden_bias=False)

    def objective(self, embeddings: torch.Tensor, num_global_views: int, step: int | None) -> dict[str, torch.Tensor]:
        """Minus the cosine of what is predicted of each view and the other view, the mean of both directions."""
        predictions = self.per_scope(self.predictor, embeddings)
        targets = embeddings.detach().flip(0)
        loss = prediction_loss(predictions, targets, self.config.loss_type)
        return {"loss": loss, "prediction_loss": loss, "predictions": predictions, "targets": targets}


__all__ = ["FrozenBiasLinear", "SimSiamForPreTraining", "SimSiamModel", "SimSiamPreTrainedModel"]
