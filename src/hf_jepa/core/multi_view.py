"""What the multi-view variants share: one encoder sees several views of each image, and a projector compares them.

LeJEPA, Rectified LpJEPA, VICReg and SimSiam differ in the projector and in the loss alone. There is no second encoder.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults

from hf_jepa.core.backbones import (
    Pooling,
    any_size,
    backbone_width,
    build_backbone,
    freeze_what_is_not_read,
    has_batch_norm,
    residual_norms,
)
from hf_jepa.core.loading import require_weights
from hf_jepa.core.modeling import JepaPreTrainedModel, JepaPreTrainingMixin, runtime_options
from hf_jepa.core.multi_view_configuration import MultiViewConfigMixin
from hf_jepa.core.outputs import JepaForPreTrainingOutput


class MultiViewPreTrainedModel(JepaPreTrainedModel):
    """Flags and initialisation of the multi-view variants; the backbone initialises itself as transformers does."""

    input_modalities = ("image",)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if not isinstance(module, nn.Linear):
            super()._init_weights(module)
            return
        init.kaiming_uniform_(module.weight, a=5**0.5)  # as torch does, like all official projectors
        if module.bias is not None:
            bound = module.in_features**-0.5
            init.uniform_(module.bias, -bound, bound)

    def init_weights(self) -> None:
        fresh = [norm for norm in residual_norms(self) if not getattr(norm, "_is_hf_initialized", False)]
        super().init_weights()
        if self.config.zero_init_residual:  # a backbone made on the meta device starts only now
            for norm in fresh:
                nn.init.zeros_(norm.weight)


class MultiViewModelMixin:
    """The encoder of a multi-view variant: a backbone and its pooling. `backbone` is a model of stock transformers."""

    _keys_to_ignore_on_load_unexpected = [r"^projector\.", r"^predictor\."]
    default_readout = "pooled"  # what it was trained by, see `extract_features`

    def __init__(self, config: MultiViewConfigMixin):
        super().__init__(config)
        self.backbone = build_backbone(self.config.backbone_config, self.config.pooling, config.zero_init_residual)
        self.pooling = Pooling(self.backbone, self.config.pooling)
        freeze_what_is_not_read(self.backbone)
        self._any_size = any_size(self.backbone)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    @can_return_tuple
    @merge_with_config_defaults
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: (B, C, H, W), of any size that the backbone takes; learnt position tables are interpolated.

        Returns:
            `last_hidden_state` as the backbone gives it, (B, N, D) or (B, D, H', W'), and `pooler_output` (B, D).

        Raises:
            TypeError: an argument that nothing would read.
            ValueError: features of another width than the config says.
        """
        kwargs = runtime_options(self, kwargs)
        kwargs.pop("interpolate_pos_encoding", None)  # always done, where the backbone asks to be told
        output = self.backbone(pixel_values, **kwargs | self._any_size | {"return_dict": True})
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=self.pool(output),
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
        )

    def pool(self, output: ModelOutput) -> torch.Tensor:
        """One vector per image, (B, D), of what the backbone returned."""
        pooled, width = self.pooling(output), backbone_width(self.config.backbone_config)
        if pooled.shape[-1] != width:
            raise ValueError(
                f"features have width {pooled.shape[-1]}, but hidden_size of backbone_config says {width}"
            )
        return pooled


def view_groups(pixel_values: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Views as groups of one size each, (B, V, C, H, W), the global ones first.

    Raises:
        TypeError: something else than tensors of floating-point numbers.
        ValueError: no group, other numbers of dimensions, groups of different batches, an empty group, a single view.

    Example:
        >>> [group.shape[1] for group in view_groups([torch.zeros(4, 2, 3, 32, 32), torch.zeros(4, 6, 3, 16, 16)])]
        [2, 6]
    """
    groups = [pixel_values] if isinstance(pixel_values, torch.Tensor) else list(pixel_values)
    if wrong := [group for group in groups if not isinstance(group, torch.Tensor)]:
        raise TypeError(f"pixel_values holds a {type(wrong[0]).__name__}, expected tensors (B, V, C, H, W)")
    if whole := [group.dtype for group in groups if not group.is_floating_point()]:
        raise TypeError(
            f"pixel_values is of {whole[0]}, expected normalised pixels as floating-point numbers: ViewAugmentation "
            "makes them of raw ones"
        )
    shapes = [tuple(group.shape) for group in groups]
    if not groups or any(len(shape) != 5 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            f"pixel_values has shapes {shapes}, expected (B, V, C, H, W), or a list of such groups of views, the "
            "global ones first, all of the same B images"
        )
    if any(0 in shape for shape in shapes):
        raise ValueError(f"pixel_values has shapes {shapes}: a group without images, views or pixels")
    if sum(shape[1] for shape in shapes) < 2:
        raise ValueError(f"pixel_values has shapes {shapes}: an image needs two views or more to be compared")
    return groups


class MultiViewPreTrainingMixin(JepaPreTrainingMixin):
    """The forward of a multi-view variant, which gives `projector` and `objective`.

    `add_heads(config)` builds the projector. `objective(embeddings, num_global_views, step)` gets the embeddings
    (V, B, P) of all views and returns the fields of the output that follow from them.
    """

    num_views: int | None = None  # that the objective compares; any number when unset
    output_class = JepaForPreTrainingOutput
    fewest_samples = 2  # batch normalisation and variances need as many

    def __init__(self, config: MultiViewConfigMixin):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.encoder_class(self.config))
        self.add_heads(self.config)
        self.post_init()

    def _complete(self, info: dict, source: str) -> None:
        super()._complete(info, source)
        freeze_what_is_not_read(self.base_model.backbone)  # loading makes every parameter trainable

    @classmethod
    def from_pretrained_backbone(cls, pretrained_model_name_or_path, loading: dict | None = None, **fields):
        """A model whose backbone starts from a checkpoint of its own, the rest afresh.

        Args:
            pretrained_model_name_or_path: of any image model of transformers, such as "facebook/dinov2-small".
            loading: arguments of `AutoModel.from_pretrained`, such as `revision` or `token`.
            fields: of the variant's config.

        Returns:
            the pretraining model, in float32.

        Raises:
            ValueError: the checkpoint lacks weights of the backbone.
        """
        loaded, info = AutoModel.from_pretrained(
            pretrained_model_name_or_path, output_loading_info=True, dtype=torch.float32, **(loading or {})
        )
        model = cls(cls.config_class(backbone_config=loaded.config, **fields))
        backbone = model.base_model.backbone
        state = {name: value for name, value in loaded.state_dict().items() if name in backbone.state_dict()}
        require_weights(set(info["missing_keys"]) & set(state), pretrained_model_name_or_path, "the backbone")
        backbone.load_state_dict(state)
        if "attn_implementation" in (loading or {}):  # a choice of run time, which no config keeps
            backbone.set_attn_implementation(loading["attn_implementation"])
        return model

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self, pixel_values: torch.Tensor | Sequence[torch.Tensor], step: int | None = None, **kwargs
    ) -> JepaForPreTrainingOutput:
        """Compare the views of each image.

        Args:
            pixel_values: (B, V, C, H, W), or a list of groups of such views, one size each, the global ones first.
            step: optimizer step, which seeds what the regulariser draws. Objectives that draw nothing ignore it.

        Returns:
            `JepaForPreTrainingOutput` with `predictions` (V, B, P), the embeddings of all views, `targets` (V, B, P),
            what they were compared with, and `context` (V, B, D), the features of the encoder. `hidden_states` and
            `attentions`, when asked for, are those of the first group of views.

        Raises:
            ValueError: views of unusable shapes, or no step in training where the regulariser draws.
        """
        groups = view_groups(pixel_values)
        total = sum(group.shape[1] for group in groups)
        if self.num_views not in (None, total):
            raise ValueError(f"{type(self).__name__} compares {self.num_views} views, got {total}")
        encoded = [self.context_encoder(views, return_dict=True, **kwargs) for views in self._batches(groups)]
        features = torch.cat([output.pooler_output for output in encoded]).unflatten(0, (total, -1))  # (V, B, D)
        objective = self.objective(self.per_scope(self.projector, features), groups[0].shape[1], step)
        return self.output_class(
            **objective,
            context=features,
            hidden_states=encoded[0].hidden_states,
            attentions=encoded[0].attentions,
        )

    def _batches(self, groups: list[torch.Tensor]) -> list[torch.Tensor]:
        """What the encoder is called with, (V' * B, C, H, W), rows ordered (view, image)."""
        by_view = [group.transpose(0, 1) for group in groups]  # (V, B, C, H, W)
        if self.config.batch_norm_scope == "view" and self.training and has_batch_norm(self.context_encoder):
            return [view for views in by_view for view in views]
        return [views.flatten(0, 1) for views in by_view]

    def per_scope(self, head: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Apply a head with batch normalisation to (V, B, D): to each view by itself, or to all rows at once."""
        if self.config.batch_norm_scope == "view":
            return torch.stack([head(view) for view in x])
        return head(x.flatten(0, 1)).unflatten(0, x.shape[:2])


__all__ = [
    "MultiViewModelMixin",
    "MultiViewPreTrainedModel",
    "MultiViewPreTrainingMixin",
    "view_groups",
]
