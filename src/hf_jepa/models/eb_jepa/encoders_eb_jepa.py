"""The encoders of an EB-JEPA: images (R, C, H, W) become one vector (R, D) each, or a map (R, D, H, W)."""

import torch
from torch import nn

from hf_jepa.core.backbones import Pooling, backbone_width, build_backbone, freeze_what_is_not_read
from hf_jepa.layers.impala import ImpalaEncoder
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.layers.residual_convolutions import ResNet5
from hf_jepa.models.eb_jepa.configuration_eb_jepa import EbJepaConfig


class EbJepaBackboneEncoder(nn.Module):
    """A vision model of transformers, its pooling, a linear layer and a LayerNorm: one vector per image.

    Args:
        config: of the EB-JEPA.
    """

    def __init__(self, config: EbJepaConfig):
        super().__init__()
        self.backbone = build_backbone(config.backbone_config, config.pooling)
        self.pooling = Pooling(self.backbone, config.pooling)
        freeze_what_is_not_read(self.backbone)
        self.projection = nn.Linear(backbone_width(config.backbone_config), config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) -> (R, D)"""
        return self.layernorm(self.projection(self.pooling(self.backbone(pixels, return_dict=True))))


def new_encoder(config: EbJepaConfig) -> nn.Module:
    """The encoder that a config names."""
    sizes, width = config.encoder_hidden_sizes, config.hidden_size
    if config.encoder_type == "impala":
        return ImpalaEncoder(pair(config.image_size), config.num_channels, sizes, config.encoder_num_blocks, width)
    if config.encoder_type == "resnet5":
        return ResNet5(config.num_channels, sizes, width)
    return EbJepaBackboneEncoder(config)


__all__ = ["EbJepaBackboneEncoder", "new_encoder"]
