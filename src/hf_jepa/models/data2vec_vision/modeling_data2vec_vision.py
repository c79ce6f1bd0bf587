"""data2vec of images (Baevski et al. 2022, arXiv 2202.03555): regress averaged layers of a teacher at masked patches.

Unlike in I-JEPA the encoder sees all places, masked ones as a mask token, so there is no predictor; targets are
several layers deep, and the teacher is an average of the transformer only. The encoder is that of native transformers,
with the BEiT architecture: class token, relative position bias shared by all layers, layer scale, drop path.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.models.data2vec.modeling_data2vec_vision import (
    Data2VecVisionEmbeddings,
)
from transformers.models.data2vec.modeling_data2vec_vision import (
    Data2VecVisionModel as NativeData2VecVisionModel,
)
from transformers.models.data2vec.modeling_data2vec_vision import (
    Data2VecVisionPreTrainedModel as NativeData2VecVisionPreTrainedModel,
)
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults

from hf_jepa.core.data2vec import (
    Data2VecPreTrainingMixin,
    recorded,
    require_mask,
    without_dropout,
)
from hf_jepa.core.modeling import JepaPreTrainedModel, runtime_options
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.layers.patch_embedding import pair, patch_grid
from hf_jepa.models.data2vec_vision.configuration_data2vec_vision import Data2VecVisionConfig


class Data2VecVisionPreTrainedModel(JepaPreTrainedModel, NativeData2VecVisionPreTrainedModel):
    """Flags and initialisation of all classes of data2vec for images."""

    config: Data2VecVisionConfig
    base_model_prefix = "data2vec_vision"
    input_modalities = ("image",)
    _no_split_modules = ["Data2VecVisionLayer"]
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _can_compile_fullgraph = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, Data2VecVisionEmbeddings):
            mean, std = (0.02, 1.0) if self.config.official_token_init else (0.0, self.config.initializer_range)
            init.trunc_normal_(module.cls_token, mean=mean, std=std)
            if module.mask_token is not None:  # an encoder alone can do without
                init.trunc_normal_(module.mask_token, mean=mean, std=std)


class Data2VecVisionModel(Data2VecVisionPreTrainedModel, NativeData2VecVisionModel):
    """The data2vec encoder of images: native `Data2VecVisionModel` with the official initialisation.

    Loads native checkpoints and pretraining checkpoints (their student).

    Example:
        >>> import torch
        >>> from hf_jepa import Data2VecVisionConfig, Data2VecVisionModel
        >>> model = Data2VecVisionModel(Data2VecVisionConfig(hidden_size=32, num_hidden_layers=2, image_size=32,
        ...     num_attention_heads=4, patch_size=8, intermediate_size=64, top_k_layers=1)).eval()
        >>> model(torch.randn(2, 3, 32, 32)).last_hidden_state.shape  # the class token first
        torch.Size([2, 17, 32])
    """

    _keys_to_ignore_on_load_unexpected = [r"^teacher\.", r"^predictor\.", r"relative_position_index"]
    num_prefix_tokens = 1  # the CLS token

    def __init__(self, config: Data2VecVisionConfig):
        super().__init__(config)

    def post_init(self):
        if self.config.rescale_residual_init:
            for index, layer in enumerate(self.encoder.layer):
                for linear in (layer.attention.output.dense, layer.output.dense):
                    linear._init_divisor = (2.0 * (index + 1)) ** 0.5
        super().post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ):
        """Encode images, all places or with some replaced by the mask token.

        Args:
            pixel_values: (B, C, H, W); sides that divide into patches.
            bool_masked_pos: BoolTensor (B, N), True where a patch is masked.

        Returns:
            `last_hidden_state` (B, 1 + N, D), the class token first, and what the native class returns beside it.

        Raises:
            TypeError: an argument that the model does not know.
            ValueError: images that do not divide into patches, a mask of another type or shape.
        """
        rows, columns = self.token_grid(pixel_values)
        if bool_masked_pos is not None:
            require_mask(bool_masked_pos, (len(pixel_values), rows * columns), "bool_masked_pos")
        kwargs = runtime_options(self, kwargs)
        return super().forward(pixel_values, bool_masked_pos, return_dict=return_dict, **kwargs)

    def token_grid(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """(rows, columns) of the patches of images (B, C, H, W).

        Raises:
            ValueError: a side that does not divide into patches.
        """
        return patch_grid(pixel_values, pair(self.config.patch_size))


class Data2VecVisionForPreTraining(Data2VecPreTrainingMixin, Data2VecVisionPreTrainedModel):
    """Student (`data2vec_vision`) and teacher with the data2vec loss on masked patches.

    Example:
        >>> import torch
        >>> from hf_jepa import Data2VecVisionConfig, Data2VecVisionForPreTraining
        >>> from hf_jepa.masking.beit_blocks import BeitBlockMaskSampler
        >>> config = Data2VecVisionConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, patch_size=8,
        ...                               intermediate_size=64, image_size=64, top_k_layers=2)
        >>> model = Data2VecVisionForPreTraining(config)
        >>> masks = BeitBlockMaskSampler(config.grid_size, num_mask_patches=38)(torch.arange(2), step=0)
        >>> out = model(torch.randn(2, 3, 64, 64), bool_masked_pos=masks)
        >>> out.loss.backward()
        >>> model.update_target_encoder(0.999)
    """

    encoder_class = Data2VecVisionModel
    context_encoder_name = "data2vec_vision"
    # The LayerNorm at the end is averaged as in the official checkpoints; targets come from before it.
    transformer_parts = ("encoder", "layernorm")

    def __init__(self, config: Data2VecVisionConfig):
        if not config.use_mask_token or config.use_mean_pooling:
            raise ValueError(
                f"use_mask_token={config.use_mask_token}, use_mean_pooling={config.use_mean_pooling}: "
                "pretraining needs True and False, a mask token and the LayerNorm at the end of the student. A "
                "checkpoint of transformers without them is one of fine-tuning, whose encoder Data2VecVisionModel "
                "loads"
            )
        super().__init__(config)

    @can_return_tuple
    @merge_with_config_defaults
    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor, **kwargs) -> JepaForPreTrainingOutput:
        """Regress the teacher's targets at masked patches.

        Args:
            pixel_values: (B, C, H, W).
            bool_masked_pos: BoolTensor (B, N), True where a patch is masked.

        Returns:
            `JepaForPreTrainingOutput`; `predictions` and `targets` are (R, D), a row for each masked patch in the
            order of the images; `context` is (B, N, D), without the class token.
        """
        targets = self.encode_targets(pixel_values, bool_masked_pos)
        student = self.context_encoder(pixel_values, bool_masked_pos=bool_masked_pos, **kwargs, return_dict=True)
        return self.regress(student.last_hidden_state[:, 1:], bool_masked_pos, targets, student)

    @torch.no_grad()
    def encode_targets(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor) -> torch.Tensor:
        """Targets of the masked patches, float32 (R, D), from images of which nothing is masked.

        Raises:
            ValueError: images that do not divide into patches, a mask of another type or shape.
        """
        rows, columns = self.context_encoder.token_grid(pixel_values)
        require_mask(bool_masked_pos, (len(pixel_values), rows * columns), "bool_masked_pos")
        embeddings = self.context_encoder.embeddings
        with without_dropout(embeddings):
            tokens, _ = embeddings(pixel_values)
        encoder = self.teacher["encoder"]
        with recorded(encoder.layer[-self.config.top_k_layers :]) as layers:
            encoder(tokens.to(self.teacher_dtype), resolution=pixel_values.shape[-2:])
        return self.masked_targets([layer[:, 1:] for layer in layers], bool_masked_pos)


__all__ = ["Data2VecVisionForPreTraining", "Data2VecVisionModel", "Data2VecVisionPreTrainedModel"]
