"""C-JEPA (Mo and Tong 2024, arXiv 2410.19560): an I-JEPA whose predictions are kept apart by VICReg.

Encoders, predictor, masks and the names of their weights are those of I-JEPA. New are a projector and a second term of
the loss: predicted blocks of an image agree, and blocks of different images differ. No official code is public.
"""

import torch
from torch import nn
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults

from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.losses.distributed import full_precision, global_mean
from hf_jepa.losses.vicreg import covariance_term, variance_term
from hf_jepa.models.cjepa.configuration_cjepa import CJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import (
    IJepaForImageClassification,
    IJepaForPreTraining,
    IJepaModel,
)


def block_agreement(blocks: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of every two blocks of an image, mean over pairs, features and the global batch.

    Args:
        blocks: one embedding of each block, (M, B, P).

    Returns:
        scalar

    Raises:
        ValueError: one block, which has nothing to agree with.

    Example:
        >>> block_agreement(torch.tensor([[[1.0]], [[1.0]], [[4.0]]])).item()  # pairs: 0, 9, 9
        6.0
    """
    if len(blocks) < 2:
        raise ValueError(
            f"{len(blocks)} block has nothing to agree with: predict two or more target blocks, or set "
            "vicreg_source='context'"
        )
    # Over all pairs, squared differences are on average twice the unbiased variance.
    return global_mean(2 * full_precision(blocks).var(dim=0))


class CJepaProjector(nn.Sequential):
    """Two linear layers with a ReLU between them, on which VICReg's terms are computed: (..., D) -> (..., P).

    The second has no bias: no term would notice it.

    Args:
        dim, hidden_dim, out_dim: widths.
        batch_norm: a BatchNorm before the ReLU.

    Example:
        >>> CJepaProjector(8, 16, 4, batch_norm=True)(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(self, dim: int, hidden_dim: int, out_dim: int, batch_norm: bool = False):
        norm = [nn.BatchNorm1d(hidden_dim)] if batch_norm else []
        first, second = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, out_dim, bias=False)
        super().__init__(first, *norm, nn.ReLU(), second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


class CJepaModel(IJepaModel):
    """The encoder of a C-JEPA, an `IJepaModel`.

    Example:
        >>> from hf_jepa import CJepaConfig, CJepaModel
        >>> model = CJepaModel(CJepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32,
        ...                                patch_size=8, intermediate_size=64)).eval()
        >>> model(torch.randn(2, 3, 32, 32)).last_hidden_state.shape
        torch.Size([2, 16, 32])
    """

    config: CJepaConfig
    _keys_to_ignore_on_load_unexpected = [*IJepaModel._keys_to_ignore_on_load_unexpected, r"^projector\."]


class CJepaForPreTraining(IJepaForPreTraining):
    """I-JEPA's encoders and predictor, and a projector, with the C-JEPA loss.

    Example:
        >>> from hf_jepa import CJepaConfig, CJepaForPreTraining, MultiBlockMaskSampler
        >>> config = CJepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        ...                      image_size=64, patch_size=8, pred_hidden_size=16, pred_num_hidden_layers=1)
        >>> model = CJepaForPreTraining(config)
        >>> masks = MultiBlockMaskSampler(config.grid_size, min_keep=4)(torch.arange(2), step=0, epoch=0)
        >>> out = model(torch.randn(2, 3, 64, 64), masks.context_mask, masks.target_mask)
        >>> out.loss.backward()
        >>> bool(out.loss > out.prediction_loss)
        True
    """

    config: CJepaConfig
    encoder_class = CJepaModel
    fewest_samples = 2  # one has no variance

    def __init__(self, config: CJepaConfig):
        super().__init__(config)
        config = self.config
        if config.vicreg_weight:
            widths = (config.hidden_size, config.proj_hidden_size, config.proj_size)
            self.projector = CJepaProjector(*widths, batch_norm=config.proj_batch_norm)
            self.post_init()

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self,
        pixel_values: torch.Tensor,
        context_mask: torch.Tensor | list[torch.Tensor],
        target_mask: torch.Tensor | list[torch.Tensor],
        **kwargs,
    ) -> JepaForPreTrainingOutput:
        """One prediction of all target blocks from all contexts, and VICReg's terms over the batch.

        Args:
            pixel_values: (B, C, H, W), at least 2 images over all processes.
            context_mask, target_mask: see `IJepaForPreTraining`.

        Returns:
            as `IJepaForPreTraining`, and `regularization_loss`, the weighted sum of VICReg's terms.

        Raises:
            ValueError: one image, which has no variance; one predicted block where blocks are to agree.
        """
        out = super().forward(pixel_values, context_mask, target_mask, **kwargs, return_dict=True)
        if self.config.vicreg_weight:
            tokens = out.predictions if self.config.vicreg_source == "predictor" else out.context
            blocks = tokens.unflatten(0, (-1, len(pixel_values))).mean(dim=2)  # (M, B, D)
            out.regularization_loss = self.config.vicreg_weight * self.vicreg(self.projector(blocks))
            out.loss = out.prediction_loss + out.regularization_loss
        return out

    def vicreg(self, blocks: torch.Tensor) -> torch.Tensor:
        """The weighted terms of projected blocks (M, B, P), statistics over the global batch."""
        config = self.config
        samples = blocks if config.vicreg_statistics == "per_block" else blocks.flatten(0, 1)
        loss = config.vicreg_variance_weight * variance_term(samples)
        loss = loss + config.vicreg_covariance_weight * covariance_term(samples)
        if config.vicreg_source == "predictor":
            loss = loss + config.vicreg_invariance_weight * block_agreement(blocks)
        return loss


class CJepaForImageClassification(IJepaForImageClassification):
    """The encoder with a linear classifier on the mean of its tokens.

    Example:
        >>> from hf_jepa import CJepaConfig, CJepaForImageClassification
        >>> config = CJepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        ...                      image_size=32, patch_size=8, num_labels=5)
        >>> CJepaForImageClassification(config)(torch.randn(2, 3, 32, 32)).logits.shape
        torch.Size([2, 5])
    """

    config: CJepaConfig
    encoder_class = CJepaModel
    _keys_to_ignore_on_load_unexpected = [
        *IJepaForImageClassification._keys_to_ignore_on_load_unexpected,
        r"^projector\.",
    ]


__all__ = [
    "CJepaForImageClassification",
    "CJepaForPreTraining",
    "CJepaModel",
    "CJepaProjector",
    "block_agreement",
]
