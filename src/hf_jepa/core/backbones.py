"""Any image backbone of transformers as the encoder of a multi-view variant: named sizes, construction, pooling."""

import inspect

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoModel, PreTrainedConfig
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetBottleNeckLayer


POOLINGS = ("auto", "cls", "mean")


def _vit(width: int, depth: int, heads: int, patch_size: int = 16) -> dict:
    return {
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "patch_size": patch_size,
        "layer_norm_eps": 1e-6,
    }


# The encoders of the papers: timm's ViTs (CLS token, learnt positions) and torchvision's ResNets, without classifiers.
SIZES = {
    "vit_tiny": _vit(192, 12, 3),
    "vit_small": _vit(384, 12, 6),
    "vit_small_patch8": _vit(384, 12, 6, patch_size=8),
    "vit_base": _vit(768, 12, 12),
    "vit_large": _vit(1024, 24, 16),
    "vit_large_patch14": _vit(1024, 24, 16, patch_size=14),
    "vit_huge_patch14": _vit(1280, 32, 16, patch_size=14),
    "resnet18": {
        "model_type": "resnet",
        "layer_type": "basic",
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [2, 2, 2, 2],
    },
    "resnet50": {"model_type": "resnet", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]},
}

# Parameters that become tokens in front of those of the patches; the first of these are CLS tokens.
_CLS_TOKENS = ("cls_token", "class_embedding")
_FRONT_TOKENS = (*_CLS_TOKENS, "distillation_token", "register_tokens")


def backbone_width(config: PreTrainedConfig) -> int:
    """Width of a backbone's features.

    Raises:
        ValueError: the config of the backbone does not say it.

    Example:
        >>> from transformers import ResNetConfig
        >>> backbone_width(ResNetConfig())
        2048
    """
    if isinstance(width := getattr(config, "hidden_size", None), int):
        return width
    if widths := getattr(config, "hidden_sizes", None):
        return widths[-1]
    raise ValueError(
        f"the config of a {config.model_type!r} backbone names no width: add the number of its features as "
        "hidden_size to backbone_config"
    )


class Pooling:
    """How the features of a backbone become one vector per image.

    - "auto" takes the backbone's own `pooler_output` where that is a plain pooling, with or without a norm: the mean
      over positions of ResNet, ConvNeXt and Swin, the mean over patches of BEiT, the CLS token of DINOv2 and CLIP.
      Where the backbone has no pooling (I-JEPA), or one with layers of its own (the tanh layer of ViT and DeiT, the
      attention of SigLIP), it takes the CLS token, and without CLS token the mean over tokens.
    - "cls" is the CLS token.
    - "mean" is the mean over positions or patches, without CLS, distillation and register tokens.

    Args:
        backbone: a model of `build_backbone`.
        kind: "auto", "cls" or "mean".

    Raises:
        ValueError: "cls" of a backbone without CLS token.
    """

    def __init__(self, backbone: PreTrainedModel, kind: str):
        front = [(name.rpartition(".")[2], p) for name, p in backbone.named_parameters()]
        front = [(name, p) for name, p in front if name in _FRONT_TOKENS]
        has_cls = any(name in _CLS_TOKENS for name, _ in front)
        if kind == "cls" and not has_cls:
            raise ValueError(f"pooling='cls': {type(backbone).__name__} has no CLS token, choose 'mean' or 'auto'")
        self.use_pooler = kind == "auto" and not _has_learnt_pooler(backbone)
        self.use_cls = kind == "cls" or (kind == "auto" and has_cls)
        self.num_front = sum(p.shape[1] if p.ndim == 3 else 1 for _, p in front)

    def __call__(self, output: ModelOutput) -> torch.Tensor:
        """(B, D) of an output with `last_hidden_state` (B, N, D) or (B, D, H, W)."""
        if self.use_pooler and output.get("pooler_output") is not None:
            return output.pooler_output.flatten(1)  # of ConvNets (B, D, 1, 1)
        features = output.last_hidden_state
        if features.ndim == 4:
            return features.mean(dim=(2, 3))
        return features[:, 0] if self.use_cls else features[:, self.num_front :].mean(dim=1)


def build_backbone(config: PreTrainedConfig, pooling: str, zero_init_residual: bool = False) -> PreTrainedModel:
    """A backbone with fresh weights, without a pooling layer that nothing would read.

    Args:
        config: of any model of transformers that takes images; "timm_wrapper" for those of timm.
        pooling: see `Pooling`.
        zero_init_residual: start the residual branches of a ResNet at zero.

    Raises:
        ImportError: a timm backbone without timm.
        ValueError: a model that does not take images.
    """
    backbone = AutoModel.from_config(config)
    if backbone.main_input_name != "pixel_values":
        raise ValueError(
            f"backbone_config is of a {config.model_type!r} model, whose input is {backbone.main_input_name}: choose "
            "one that takes pixel_values, such as 'vit', 'dinov2', 'resnet' or 'convnext'"
        )
    optional = "add_pooling_layer" in inspect.signature(type(backbone).__init__).parameters
    if optional and (pooling != "auto" or _has_learnt_pooler(backbone)):
        backbone.pooler = None  # as with add_pooling_layer=False
    if zero_init_residual:
        zero_residual_branches(backbone)
    return backbone


def _has_learnt_pooler(backbone: PreTrainedModel) -> bool:
    layers = (layer for pooler in _poolers(backbone) for layer in pooler.modules())
    return any(isinstance(layer, nn.Linear | nn.MultiheadAttention) for layer in layers)


def _poolers(backbone: PreTrainedModel) -> list[nn.Module]:
    """What makes `pooler_output` out of tokens or positions, by the names that transformers gives it."""
    return [part for name, part in backbone.named_children() if name in ("pooler", "head")]


def freeze_what_is_not_read(backbone: PreTrainedModel) -> None:
    """Exclude mask tokens (DINOv2) and learnt poolings (SigLIP) from training: DDP waits for every other gradient."""
    unread = [p for name, p in backbone.named_parameters() if name.rpartition(".")[2] == "mask_token"]
    if _has_learnt_pooler(backbone):
        unread += [p for pooler in _poolers(backbone) for p in pooler.parameters()]
    for parameter in unread:
        parameter.requires_grad_(False)


def any_size(model: PreTrainedModel) -> dict[str, bool]:
    """Options of its forward by which a model takes images of any size, where it asks to be told.

    Example:
        >>> from transformers import AutoModel, ViTConfig
        >>> any_size(AutoModel.from_config(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)))
        {'interpolate_pos_encoding': True}
    """
    name = "interpolate_pos_encoding"  # of learnt position tables
    return {name: True} if name in inspect.signature(model.forward).parameters else {}


def residual_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The last normalisation of every residual branch of the ResNets in a model."""
    blocks = (block for block in model.modules() if isinstance(block, ResNetBasicLayer | ResNetBottleNeckLayer))
    return [block.layer[-1].normalization for block in blocks]


def zero_residual_branches(model: nn.Module) -> None:
    """Start every residual branch of a ResNet at zero, so that its blocks start as the identity (1706.02677, 5.1)."""
    for norm in residual_norms(model):
        nn.init.zeros_(norm.weight)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether the output for one sample depends on the other samples of its batch, in training."""
    return any(isinstance(part, _BatchNorm) for part in module.modules())


__all__ = [
    "POOLINGS",
    "SIZES",
    "Pooling",
    "any_size",
    "backbone_width",
    "build_backbone",
    "freeze_what_is_not_read",
    "has_batch_norm",
    "residual_norms",
    "zero_residual_branches",
]
