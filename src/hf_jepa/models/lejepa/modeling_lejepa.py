"""LeJEPA (Balestriero and LeCun 2025, arXiv 2511.08544): views agree, embeddings are an isotropic Gaussian.

No teacher, no stop-gradient, no predictor: SIGReg, a test of normality along random directions, keeps the embeddings
from collapsing. Beside VICReg it constrains the whole distribution, not only variances and covariances.
"""

import torch
from torch import nn
from transformers.modeling_outputs import ModelOutput

from hf_jepa.core.backbones import backbone_width
from hf_jepa.core.multi_view import MultiViewModelMixin, MultiViewPreTrainedModel, MultiViewPreTrainingMixin
from hf_jepa.core.regularization import require_step
from hf_jepa.layers.projector import Projector
from hf_jepa.losses.invariance import invariance_loss
from hf_jepa.losses.sigreg import sigreg
from hf_jepa.models.lejepa.configuration_lejepa import LeJepaConfig


class LeJepaPreTrainedModel(MultiViewPreTrainedModel):
    """Flags and initialisation of all LeJEPA classes."""

    config: LeJepaConfig
    base_model_prefix = "lejepa"


class LeJepaModel(MultiViewModelMixin, LeJepaPreTrainedModel):
    """The encoder of a LeJEPA: a backbone, its pooling and, where the config asks for one, a linear embedding.

    Loads pretraining checkpoints. `backbone` is a model of stock transformers, which `backbone.save_pretrained` saves
    as such.

    Example:
        >>> import torch
        >>> from hf_jepa import LeJepaConfig, LeJepaModel
        >>> config = LeJepaConfig(backbone_config={"model_type": "resnet", "embedding_size": 8,
        ...                                        "hidden_sizes": [16, 32], "depths": [1, 1]})
        >>> LeJepaModel(config)(torch.randn(2, 3, 64, 48)).pooler_output.shape
        torch.Size([2, 32])
    """

    def __init__(self, config: LeJepaConfig):
        super().__init__(config)
        width, size = backbone_width(self.config.backbone_config), self.config.embedding_size
        self.embedding = nn.Identity() if size is None else nn.Linear(width, size)
        self.post_init()

    def pool(self, output: ModelOutput) -> torch.Tensor:
        return self.embedding(super().pool(output))


class LeJepaForPreTraining(MultiViewPreTrainingMixin, LeJepaPreTrainedModel):
    """Encoder (`lejepa`) and projector with the LeJEPA loss.

    Example:
        >>> import torch
        >>> from hf_jepa import LeJepaConfig, LeJepaForPreTraining
        >>> backbone = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        ...             "image_size": 32, "patch_size": 8}
        >>> model = LeJepaForPreTraining(LeJepaConfig(backbone_config=backbone, proj_hidden_size=64, proj_size=16))
        >>> views = [torch.randn(4, 2, 3, 32, 32), torch.randn(4, 6, 3, 16, 16)]  # 2 global, 6 local
        >>> out = model(views, step=0)
        >>> out.loss.backward()
        >>> out.predictions.shape, out.context.shape
        (torch.Size([8, 4, 16]), torch.Size([8, 4, 32]))
    """

    encoder_class = LeJepaModel

    def add_heads(self, config: LeJepaConfig) -> None:
        hidden = config.proj_hidden_size
        self.projector = Projector([config.hidden_size, hidden, hidden, config.proj_size])

    def objective(self, embeddings: torch.Tensor, num_global_views: int, step: int | None) -> dict[str, torch.Tensor]:
        """The terms of the loss, and the centre that every view is drawn to."""
        config = self.config
        if config.invariance_centre == "all":
            num_global_views = len(embeddings)
        regularization = sigreg(
            embeddings,
            step=require_step(self, step),
            num_slices=config.sigreg_num_slices,
            t_max=config.sigreg_t_max,
            n_points=config.sigreg_num_points,
            interval=config.sigreg_interval,
            scale_by_n=config.sigreg_scale_by_n,
            flattened=config.sigreg_flattened,
        )
        weight = 1.0 - config.sigreg_weight if config.combination == "convex" else 1.0
        prediction = weight * invariance_loss(embeddings, num_global_views)
        regularization = config.sigreg_weight * regularization
        centre = embeddings.detach()[:num_global_views].mean(dim=0)
        return {
            "loss": prediction + regularization,
            "prediction_loss": prediction,
            "regularization_loss": regularization,
            "predictions": embeddings,
            "targets": centre.expand_as(embeddings),
        }


__all__ = ["LeJepaForPreTraining", "LeJepaModel", "LeJepaPreTrainedModel"]
