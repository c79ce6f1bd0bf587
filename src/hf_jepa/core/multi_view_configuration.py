"""The config fields of the multi-view variants: which backbone, and the widths of the projector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_jepa.core.backbones import POOLINGS, SIZES, backbone_width
from hf_jepa.core.configuration import JepaConfigMixin
from hf_jepa.core.validation import require_at_least, require_choices


BATCH_NORM_SCOPES = ("view", "all")
# Fields of the backbone that are read here as well, and options of transformers that would be dropped in silence.
_OF_BACKBONE = ("hidden_size", "image_size", "num_channels")
_NO_FIELDS = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_kwargs")


@dataclass(kw_only=True, repr=False)
class MultiViewConfigMixin(JepaConfigMixin):
    """Config fields of the encoder of a multi-view variant.

    Args:
        backbone_config: a config, or the fields of one with its `model_type` ("vit" if it has none), of any model of
            transformers that takes images: "vit", "dinov2", "resnet", "convnext", "ijepa", ..., and "timm_wrapper" for
            those of timm. What such a config does not say is added to it: `hidden_size`, the width of the features,
            and `image_size`, for which 224 is taken. Default: ViT-B/16.
        pooling: "auto", "cls" or "mean", see `hf_jepa.core.backbones.Pooling`.
        proj_hidden_size, proj_size: widths of the two hidden layers and of the output of the projector.
        batch_norm_scope: what batch normalisation takes its statistics of in training: each "view" by itself, or "all"
            rows that pass together, which in the projector are all views, and in a backbone those of one size.
        zero_init_residual: start the residual branches of a ResNet at zero.
    """

    target_sources: ClassVar[tuple[str, ...]] = ("shared",)
    loss_types: ClassVar[tuple[str, ...]] = ("mse",)
    sub_configs_defaults: ClassVar[dict] = {"backbone_config": SubConfigSpec(AutoConfig, model_type="vit")}

    backbone_config: dict | PreTrainedConfig | None = None
    pooling: str = "auto"
    proj_hidden_size: int = 2048
    proj_size: int = 2048
    batch_norm_scope: str = "view"
    zero_init_residual: bool = False
    target_source: str = "shared"
    target_normalization: str = "none"
    loss_type: str = "mse"

    def __post_init__(self, **kwargs):
        for name in (*_OF_BACKBONE, *_NO_FIELDS):
            if name in kwargs:
                raise ValueError(
                    f"{name}={kwargs[name]!r} is no field of {type(self).__name__}: say what the backbone is in "
                    "backbone_config, such as {'model_type': 'resnet'} or {'model_type': 'timm_wrapper', "
                    "'architecture': 'resnet50'}, and its fields there too"
                )
        if not isinstance(self.backbone_config, PreTrainedConfig):
            fields = SIZES["vit_base"] if self.backbone_config is None else self.backbone_config
            self.backbone_config = AutoConfig.for_model(**({"model_type": "vit"} | fields))
        super().__post_init__(**kwargs)

    @classmethod
    def from_size(cls, size: str, backbone_config: dict | None = None, **overrides):
        """The config with a backbone of a named size.

        Args:
            size: one of `hf_jepa.core.backbones.SIZES`, such as "vit_small" or "resnet50".
            backbone_config: fields of the backbone that replace those of the size.
            overrides: any other fields.

        Raises:
            ValueError: an unknown size.
        """
        if size not in SIZES:
            raise ValueError(f"size {size!r} is not one of {', '.join(SIZES)}")
        return cls(backbone_config=SIZES[size] | (backbone_config or {}), **overrides)

    @property
    def hidden_size(self) -> int:
        """Width of the features of the encoder."""
        return backbone_width(self.backbone_config)

    @property
    def image_size(self) -> int | Sequence[int]:
        """Pixels of a global view, as the backbone's config says; other sizes are welcome at run time."""
        return getattr(self.backbone_config, "image_size", 224)

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return getattr(self.backbone_config, "num_channels", 3)

    def validate_multi_view(self):
        require_choices(
            self,
            pooling=POOLINGS,
            batch_norm_scope=BATCH_NORM_SCOPES,
            loss_type=self.loss_types,
            target_normalization=("none",),
        )
        require_at_least(self, 1, ("proj_hidden_size", "proj_size"))
        if self.zero_init_residual and self.backbone_config.model_type != "resnet":
            raise ValueError(
                f"zero_init_residual=True is for backbones of type 'resnet', not {self.backbone_config.model_type!r}"
            )
        backbone_width(self.backbone_config)


__all__ = ["BATCH_NORM_SCOPES", "MultiViewConfigMixin"]
