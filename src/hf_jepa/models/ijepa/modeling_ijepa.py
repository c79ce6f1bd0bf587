"""I-JEPA (Assran et al. 2023, arXiv 2301.08243): predict the embeddings of image blocks from one context block.

The plain member of the family: a ViT without CLS token on 2-D sine-cosine positions, an EMA target encoder, a narrow
transformer as predictor, one sequence per target block. Encoder parameters are named as in native transformers.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hf_jepa.core.image_classification import ImageClassificationMixin
from hf_jepa.core.modeling import JepaPreTrainedModel, JepaPreTrainingMixin, runtime_options
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.core.regularization import sigreg_term
from hf_jepa.layers.attention import Attention
from hf_jepa.layers.patch_embedding import PatchEmbedding2d, pair
from hf_jepa.layers.position import resize_positions, same_grid, sincos_2d
from hf_jepa.layers.tokens import as_mask_list, take_tokens, take_tokens_per_mask
from hf_jepa.layers.transformer import TransformerLayer
from hf_jepa.losses.prediction import normalize_targets, prediction_loss
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig


# transformers renames the keys of old hub files (`encoder.layer.0.attention.attention.query`) for its own classes, and
# for others of these names only once they are registered from outside.
register_checkpoint_conversion_mapping("IJepaModel", get_checkpoint_conversion_mapping("IJepaModel"), overwrite=True)


def positions_for_grid(table: torch.Tensor, config: IJepaConfig, grid_size: tuple[int, int]) -> torch.Tensor:
    """The position table (1, N, D) of the configured grid, brought to the grid of the images at hand."""
    if same_grid(config.grid_size, grid_size):
        return table
    if config.position_resize == "recompute":
        return sincos_2d(table.shape[-1], grid_size).to(table)
    return resize_positions(table, config.grid_size, grid_size)


def repeat_for_contexts(x: torch.Tensor, num_targets: int, num_contexts: int) -> torch.Tensor:
    """Rows (target mask, image) -> rows (target mask, context mask, image)."""
    if num_contexts == 1:
        return x
    return x.unflatten(0, (num_targets, 1, -1)).expand(-1, num_contexts, -1, -1, -1).flatten(0, 2)


def transformer_layer(config: IJepaConfig, index: int, dim: int, num_heads: int, mlp_dim: int) -> TransformerLayer:
    """Layer number `index` of the encoder or the predictor."""
    return TransformerLayer(
        config,
        dim,
        num_heads,
        mlp_dim,
        layer_norm_eps=config.layer_norm_eps,
        qkv_bias=config.qkv_bias,
        hidden_act=config.hidden_act,
        attention_dropout=config.attention_probs_dropout_prob,
        hidden_dropout=config.hidden_dropout_prob,
        residual_init_divisor=(2.0 * (index + 1)) ** 0.5 if config.rescale_residual_init else 1.0,
    )


class IJepaEmbeddings(nn.Module):
    """Patches plus a frozen 2-D sine-cosine table: (B, C, H, W) -> (B, N, D)."""

    def __init__(self, config: IJepaConfig):
        super().__init__()
        self.config = config
        self.patch_embeddings = PatchEmbedding2d(config.num_channels, config.hidden_size, pair(config.patch_size))
        # A buffer, not a parameter as in native transformers: never trained or decayed, yet saved.
        self.register_buffer("position_embeddings", sincos_2d(config.hidden_size, config.grid_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        grid_size = self.patch_embeddings.grid_size(pixel_values)
        patches = self.patch_embeddings(pixel_values)
        # In the type of the weights, not of the patches: under autocast the residual stream stays float32.
        table = self.position_embeddings.to(self.patch_embeddings.projection.weight.dtype)
        return self.dropout(patches + positions_for_grid(table, self.config, grid_size))


class IJepaPredictor(nn.Module):
    """A narrow transformer that fills mask tokens at target positions from the encoded context.

    Each target block is predicted in a sequence of its own, so mask tokens of different blocks never see each other.

    Args:
        config: its `pred_*` fields size the predictor.

    Example:
        >>> import torch
        >>> from hf_jepa import IJepaConfig, IJepaPredictor
        >>> config = IJepaConfig(hidden_size=32, num_attention_heads=4, image_size=32, patch_size=8,
        ...                      pred_hidden_size=16)
        >>> predictor = IJepaPredictor(config)
        >>> context_mask, target_mask = torch.tensor([[0, 1, 4]]), torch.tensor([[10, 11]])
        >>> predictor(torch.randn(1, 3, 32), [context_mask], [target_mask]).shape
        torch.Size([1, 2, 32])
    """

    def __init__(self, config: IJepaConfig):
        super().__init__()
        self.config = config
        dim = config.pred_hidden_size
        self.embed = nn.Linear(config.hidden_size, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("position_embeddings", sincos_2d(dim, config.grid_size))
        self.layers = nn.ModuleList(
            transformer_layer(config, i, dim, config.pred_num_attention_heads, round(dim * config.pred_mlp_ratio))
            for i in range(config.pred_num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.proj = nn.Linear(dim, config.hidden_size)

    def forward(
        self,
        context: torch.Tensor,
        context_mask: list[torch.Tensor],
        target_mask: list[torch.Tensor],
        grid_size: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """Predict every target block from every context.

        Args:
            context: encoded context tokens, (E * B, N, D), rows ordered (context mask, image).
            context_mask: E LongTensors (B, N), the tokens that were encoded.
            target_mask: M LongTensors (B, K), the tokens to predict.
            grid_size: (rows, columns) of the images' token grid; the configured one when unset.

        Returns:
            (M * E * B, K, D), rows ordered (target mask, context mask, image).
        """
        table = self.position_embeddings.to(self.mask_token.dtype)
        positions = positions_for_grid(table, self.config, grid_size or self.config.grid_size)
        x = self.embed(context) + take_tokens_per_mask(positions, context_mask)
        x = x.repeat(len(target_mask), 1, 1)  # (M * E * B, N, P)
        queries = self.mask_token + take_tokens_per_mask(positions, target_mask)  # (M * B, K, P)
        queries = repeat_for_contexts(queries, len(target_mask), len(context_mask))
        x = torch.cat([x, queries.to(x.dtype)], dim=1)
        for layer in self.layers[:-1]:
            x = layer(x)
        x = self.layers[-1](x, select=lambda tokens: tokens[:, -queries.shape[1] :])
        return self.proj(self.layernorm(x))


class IJepaPreTrainedModel(JepaPreTrainedModel):
    """Flags and initialisation of all I-JEPA classes."""

    config: IJepaConfig
    base_model_prefix = "ijepa"
    input_modalities = ("image",)
    _no_split_modules = ["IJepaEmbeddings", "TransformerLayer"]
    _can_record_outputs = {"hidden_states": TransformerLayer, "attentions": Attention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, IJepaEmbeddings):
            init.copy_(module.position_embeddings, sincos_2d(self.config.hidden_size, self.config.grid_size))
        elif isinstance(module, IJepaPredictor):
            init.trunc_normal_(module.mask_token, std=self.config.initializer_range)
            init.copy_(module.position_embeddings, sincos_2d(self.config.pred_hidden_size, self.config.grid_size))


class IJepaModel(IJepaPreTrainedModel):
    """The I-JEPA encoder: a ViT that can be shown part of an image.

    Loads encoder-only checkpoints (native, hub and own layout) and pretraining checkpoints (their target encoder).

    Example:
        >>> import torch
        >>> from hf_jepa import IJepaConfig, IJepaModel
        >>> model = IJepaModel(IJepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32,
        ...                                patch_size=8, intermediate_size=64)).eval()
        >>> model(torch.randn(2, 3, 32, 32)).last_hidden_state.shape
        torch.Size([2, 16, 32])
        >>> model(torch.randn(2, 3, 48, 32), context_mask=torch.tensor([[0, 5], [3, 4]])).last_hidden_state.shape
        torch.Size([2, 2, 32])
    """

    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"^predictor\.", r"^classifier\."]

    def __init__(self, config: IJepaConfig):
        super().__init__(config)
        config = self.config
        self.embeddings = IJepaEmbeddings(config)
        self.layers = nn.ModuleList(
            transformer_layer(config, i, config.hidden_size, config.num_attention_heads, config.intermediate_size)
            for i in range(config.num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings.projection

    def token_grid(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """(rows, columns) of the tokens of images (B, C, H, W)."""
        return self.embeddings.patch_embeddings.grid_size(pixel_values)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        context_mask: torch.Tensor | list[torch.Tensor] | None = None,
        output_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Encode images, or the visible part of them.

        Args:
            pixel_values: (B, C, H, W); any height and width that divide into patches.
            context_mask: LongTensor (B, K) of token indices to keep, or a list of E such tensors. Tokens are dropped
                before the first layer and keep the order of the mask.
            output_mask: LongTensor (rows, K) of indices into the encoded tokens whose output is wanted. All tokens are
                attended to; the last layer updates only these.

        Returns:
            `last_hidden_state` (B, N, D), or (E * B, K, D) with rows ordered (context mask, image). There is no CLS
            token: a global feature is the mean over N.

        Raises:
            TypeError: an argument that the model does not know.
            ValueError: images that do not divide into patches, an unusable mask.
        """
        kwargs = runtime_options(self, kwargs)
        hidden_states = self.embeddings(pixel_values)
        if context_mask is not None:
            hidden_states = take_tokens_per_mask(hidden_states, as_mask_list(context_mask, "context_mask"))
        select = None if output_mask is None else lambda tokens: take_tokens(tokens, output_mask)
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, **kwargs)
        hidden_states = self.layers[-1](hidden_states, select=select, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layernorm(hidden_states))


class IJepaForPreTraining(JepaPreTrainingMixin, IJepaPreTrainedModel):
    """Context encoder, target encoder (`ijepa`) and predictor with the I-JEPA loss.

    Example:
        >>> import torch
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining, MultiBlockMaskSampler
        >>> config = IJepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        ...                      image_size=64, patch_size=8, pred_hidden_size=16, pred_num_hidden_layers=1)
        >>> model = IJepaForPreTraining(config)
        >>> masks = MultiBlockMaskSampler(config.grid_size, min_keep=4)(torch.arange(2), step=0, epoch=0)
        >>> out = model(torch.randn(2, 3, 64, 64), masks.context_mask, masks.target_mask)
        >>> out.loss.backward()
        >>> model.update_target_encoder(0.996)
    """

    # Beside a 16-bit model the target encoder stays float32: its average would not move otherwise.
    _keep_in_fp32_modules_strict = ["ijepa"]
    encoder_class = IJepaModel  # a variant that is an I-JEPA names its own

    def __init__(self, config: IJepaConfig):
        super().__init__(config)
        self.ijepa = self.encoder_class(self.config)
        if self.config.has_target_encoder:
            self.context_encoder = self.encoder_class(self.config)
        self.predictor = IJepaPredictor(self.config)
        self.post_init()

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self,
        pixel_values: torch.Tensor,
        context_mask: torch.Tensor | list[torch.Tensor],
        target_mask: torch.Tensor | list[torch.Tensor],
        step: int | None = None,
        **kwargs,
    ) -> JepaForPreTrainingOutput:
        """One prediction of all target blocks from all contexts.

        Args:
            pixel_values: (B, C, H, W).
            context_mask: E LongTensors (B, N) of the tokens the context encoder may see.
            target_mask: M LongTensors (B, K) of the tokens to predict; all of one length.
            step: number of the optimizer step, which training with `sigreg_weight` needs.

        Returns:
            `JepaForPreTrainingOutput`; `predictions` and `targets` are (M * E * B, K, D), rows ordered (target mask,
            context mask, image).
        """
        context_mask = as_mask_list(context_mask, "context_mask")
        target_mask = as_mask_list(target_mask, "target_mask", rows=len(context_mask[0]))
        grid_size = self.context_encoder.token_grid(pixel_values)
        context = self.context_encoder(pixel_values, context_mask=context_mask, **kwargs, return_dict=True)
        predictions = self.predictor(context.last_hidden_state, context_mask, target_mask, grid_size)
        if self.config.has_target_encoder:
            targets, regularization = self.encode_targets(pixel_values, target_mask), None
        else:
            targets, regularization = self._own_targets(pixel_values, target_mask, step)
        targets = repeat_for_contexts(targets, len(target_mask), len(context_mask))
        loss = prediction_loss(predictions, targets, self.config.loss_type)
        return JepaForPreTrainingOutput(
            loss=loss if regularization is None else loss + regularization,
            prediction_loss=loss,
            regularization_loss=regularization,
            predictions=predictions,
            targets=targets.detach(),
            context=context.last_hidden_state,
            hidden_states=context.hidden_states,
            attentions=context.attentions,
        )

    def _own_targets(
        self, pixel_values: torch.Tensor, target_mask: list[torch.Tensor], step: int | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Targets and regularisation where the encoder that is trained makes them, from whole images."""
        with self.learning_from_targets():
            tokens = self.target_encoder(pixel_values, return_dict=True).last_hidden_state  # (B, N, D)
        regularization = sigreg_term(self, [tokens], step)
        if self.config.target_source == "shared_stopgrad":
            tokens = tokens.detach()
        targets = take_tokens_per_mask(tokens, target_mask)
        return normalize_targets(targets, self.config.target_normalization), regularization

    @torch.no_grad()
    def encode_targets(self, pixel_values: torch.Tensor, target_mask: list[torch.Tensor]) -> torch.Tensor:
        """Normalised target embeddings of each mask's tokens, (M * B, K, D), rows ordered (target mask, image)."""
        wanted = torch.cat(target_mask, dim=1)  # (B, M * K); overlapping blocks name a token twice
        rows, columns = self.target_encoder.token_grid(pixel_values)
        if wanted.shape[1] >= rows * columns:  # overlapping blocks: the whole image is fewer tokens
            hidden_states = self.target_encoder(pixel_values, return_dict=True).last_hidden_state
            hidden_states = take_tokens_per_mask(hidden_states, target_mask)
        else:
            encoded = self.target_encoder(pixel_values, output_mask=wanted, return_dict=True)
            hidden_states = encoded.last_hidden_state
            hidden_states = torch.cat(hidden_states.split([mask.shape[1] for mask in target_mask], dim=1))
        return normalize_targets(hidden_states, self.config.target_normalization)


class IJepaForImageClassification(ImageClassificationMixin, IJepaPreTrainedModel):
    """The encoder with a linear classifier on the mean of its tokens, under the names of the native class.

    Unlike in the native class, position tables stay frozen and images may have any size.

    Example:
        >>> import torch
        >>> from hf_jepa import IJepaConfig, IJepaForImageClassification
        >>> config = IJepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        ...                      image_size=32, patch_size=8, num_labels=5)
        >>> IJepaForImageClassification(config)(torch.randn(2, 3, 32, 32)).logits.shape
        torch.Size([2, 5])
    """

    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"^predictor\."]
    encoder_class = IJepaModel

    def __init__(self, config: IJepaConfig):
        super().__init__(config)
        self.ijepa = self.encoder_class(self.config)
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
        self.post_init()


__all__ = [
    "IJepaEmbeddings",
    "IJepaForImageClassification",
    "IJepaForPreTraining",
    "IJepaModel",
    "IJepaPreTrainedModel",
    "IJepaPredictor",
]
