"""NEPA (Xu et al. 2025, arXiv 2512.16922): predict the embedding of the next patch from the patches before it.

The plainest member of the family: one causal ViT and nothing else. Its final output at a token is the prediction, the
input embedding of the token after it (the patch projection, without gradient) the target: no target encoder, no
predictor, no masks, no views.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hf_jepa.core.image_classification import ImageClassificationMixin
from hf_jepa.core.modeling import JepaPreTrainedModel, JepaPreTrainingMixin, runtime_options
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.layers.causal_transformer import CausalAttention, CausalTransformerLayer, LayerScale
from hf_jepa.layers.patch_embedding import PatchEmbedding2d, pair
from hf_jepa.layers.rotary_2d import patch_centres, perturb_centres, rotary_tables_2d
from hf_jepa.losses.prediction import normalize_targets, prediction_loss
from hf_jepa.models.nepa.configuration_nepa import NepaConfig


# Names within a layer on the Hub and here; an earlier one may contain a later one.
LAYER_NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.attention.q_norm": "attention.q_norm",
    "attention.attention.k_norm": "attention.k_norm",
    "attention.output.dense": "attention.o_proj",
    "output.layer_scale": "layer_scale2",
    "layer_scale": "layer_scale1",
    "intermediate.gate_proj": "mlp.gate",
    "intermediate.up_proj": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
# With these `from_pretrained` reads the Hub's files as they are; `convert_nepa` has the same as a strict table.
register_checkpoint_conversion_mapping(
    "vit_nepa",
    [
        WeightRenaming(r"^vit_nepa\.", "nepa."),
        WeightRenaming(r"encoder\.layer\.", "layers."),
        *(WeightRenaming(official, ours) for official, ours in LAYER_NAMES.items()),
    ],
    overwrite=True,
)


@dataclass
class NepaModelOutput(BaseModelOutput):
    """Output of `NepaModel`.

    Args:
        input_embeddings: what the first layer gets, before dropout, (B, 1 + N, D): CLS token and patch projections.
    """

    input_embeddings: torch.FloatTensor | None = None


class NepaEmbeddings(nn.Module):
    """A CLS token before the patches, and no positions: (B, C, H, W) -> (B, 1 + N, D)."""

    def __init__(self, config: NepaConfig):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.patch_embeddings = PatchEmbedding2d(config.num_channels, config.hidden_size, pair(config.patch_size))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embeddings(pixel_values)
        # The common type is that of the weights: under autocast the residual stream stays float32.
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)


def transformer_layer(config: NepaConfig, index: int) -> CausalTransformerLayer:
    """Layer number `index`; stochastic depth rises along them."""
    return CausalTransformerLayer(
        config,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        layer_norm_eps=config.layer_norm_eps,
        hidden_act=config.hidden_act,
        gated_mlp=config.use_gated_mlp,
        layer_scale=config.layerscale_value,
        hidden_dropout=config.hidden_dropout_prob,
        drop_path=config.drop_path_prob * index / max(1, config.num_hidden_layers - 1),
        qkv_bias=config.qkv_bias,
        dropout=config.attention_probs_dropout_prob,
        qk_norm=config.qk_norm,
        qk_norm_affine=config.qk_norm_affine,
        qk_norm_bias=config.qk_norm_bias,
    )


class NepaPreTrainedModel(JepaPreTrainedModel):
    """Initialisation and flags of the NEPA models."""

    config: NepaConfig
    base_model_prefix = "nepa"
    input_modalities = ("image",)
    _no_split_modules = ["NepaEmbeddings", "CausalTransformerLayer"]
    _can_record_outputs = {"hidden_states": CausalTransformerLayer, "attentions": CausalAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, NepaEmbeddings):
            init.trunc_normal_(module.cls_token, std=self.config.initializer_range)
        elif isinstance(module, LayerScale):
            init.constant_(module.lambda1, self.config.layerscale_value)


class NepaModel(NepaPreTrainedModel):
    """The NEPA encoder: a ViT with a CLS token and rotary positions, causal as pretrained or not.

    Whether tokens see only what comes before them is `config.is_causal`, read at every forward, or `is_causal` of a
    single call: `model(pixel_values, is_causal=False)` lets all tokens see each other, as the official fine-tuning
    does. Loads checkpoints of all NEPA classes, in the Hub's layout and in ours.

    Example:
        >>> import torch
        >>> from hf_jepa import NepaConfig, NepaModel
        >>> model = NepaModel(NepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32,
        ...                              patch_size=8, intermediate_size=64)).eval()
        >>> model(torch.randn(2, 3, 32, 32)).last_hidden_state.shape  # a CLS token and 16 patches
        torch.Size([2, 17, 32])
        >>> model(torch.randn(2, 3, 48, 32)).input_embeddings.shape
        torch.Size([2, 25, 32])
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^fc_norm\."]
    num_prefix_tokens = 1  # the CLS token

    def __init__(self, config: NepaConfig):
        super().__init__(config)
        config = self.config
        self.embeddings = NepaEmbeddings(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(transformer_layer(config, i) for i in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings.projection

    def token_grid(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """(rows, columns) of the patches of images (B, C, H, W)."""
        return self.embeddings.patch_embeddings.grid_size(pixel_values)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> NepaModelOutput:
        """Encode images.

        Args:
            pixel_values: (B, C, H, W); any height and width that divide into patches. Positions are fractions of the
                image, so those of other sizes lie in the range of training.

        Returns:
            `last_hidden_state` (B, 1 + N, D), the CLS token first, patches row-major. While `config.is_causal`, the
            CLS token has seen nothing but itself: a global feature is the mean over the patches, or the last one.
            `input_embeddings` (B, 1 + N, D).

        Raises:
            TypeError: an argument that the model does not know.
            ValueError: images that do not divide into patches.
        """
        kwargs = runtime_options(self, kwargs)
        grid_size = self.token_grid(pixel_values)
        embeddings = self.embeddings(pixel_values)
        rotary = self._rotary(grid_size, embeddings.device)
        mask = create_causal_mask(self.config, embeddings, attention_mask=None, past_key_values=None)
        hidden_states = self.dropout(embeddings)
        for layer in self.layers:
            hidden_states = layer(hidden_states, rotary, mask, **kwargs)
        return NepaModelOutput(last_hidden_state=self.layernorm(hidden_states), input_embeddings=embeddings)

    def _rotary(self, grid_size: tuple[int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The tables of CLS token and patches, (1 + N, head channels), perturbed while training."""
        config = self.config
        centres = patch_centres(grid_size, device)
        if self.training:
            centres = perturb_centres(
                centres, config.pos_embed_shift, config.pos_embed_jitter, config.pos_embed_rescale
            )
        return rotary_tables_2d(centres, config.hidden_size // config.num_attention_heads, config.rope_theta, prefix=1)


class NepaForPreTraining(JepaPreTrainingMixin, NepaPreTrainedModel):
    """The causal ViT (`nepa`) with the next-embedding loss.

    It is context encoder and target encoder in one: targets are its input embeddings.

    Example:
        >>> import torch
        >>> from hf_jepa import NepaConfig, NepaForPreTraining
        >>> model = NepaForPreTraining(NepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        ...                                       image_size=32, patch_size=8, intermediate_size=64))
        >>> out = model(torch.randn(2, 3, 32, 32))
        >>> out.loss.backward()
        >>> out.predictions.shape  # one for every patch, the first from the CLS token
        torch.Size([2, 16, 32])
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^fc_norm\."]

    def __init__(self, config: NepaConfig):
        super().__init__(config)
        self.nepa = NepaModel(self.config)
        self.post_init()

    @can_return_tuple
    @merge_with_config_defaults
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> JepaForPreTrainingOutput:
        """Predict every patch from those before it, in row-major order.

        Args:
            pixel_values: (B, C, H, W).

        Returns:
            `JepaForPreTrainingOutput`; `predictions` and `targets` are (B, N, D) for the N patches, `context`
            (B, 1 + N, D) is the encoder's output, of which the predictions are all but the last token.

        Raises:
            ValueError: `config.is_causal` is False: every token would see what it is to predict.
        """
        if not self.config.is_causal:
            raise ValueError("is_causal=False: tokens see the patches that they are to predict; pretrain with True")
        encoded = self.nepa(pixel_values, **kwargs, return_dict=True)
        predictions = encoded.last_hidden_state[:, :-1]
        targets = normalize_targets(encoded.input_embeddings[:, 1:].detach(), self.config.target_normalization)
        loss = prediction_loss(predictions, targets, self.config.loss_type)
        return JepaForPreTrainingOutput(
            loss=loss,
            prediction_loss=loss,
            predictions=predictions,
            targets=targets,
            context=encoded.last_hidden_state,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class NepaForImageClassification(ImageClassificationMixin, NepaPreTrainedModel):
    """The encoder with a linear classifier, as in the official fine-tuning.

    A checkpoint of pretraining is causal: the official fine-tuning lets all tokens see each other and reads the mean
    of the patches, `from_pretrained(name, is_causal=False, add_pooling_layer=True)`. Our program does so where it
    trains the encoder (mode "full" or "lora"); a "probe" reads the encoder as it was pretrained.

    Example:
        >>> import torch
        >>> from hf_jepa import NepaConfig, NepaForImageClassification
        >>> config = NepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        ...                     image_size=32, patch_size=8, num_labels=5, is_causal=False, add_pooling_layer=True)
        >>> NepaForImageClassification(config)(torch.randn(2, 3, 32, 32)).logits.shape
        torch.Size([2, 5])
    """

    # What our fine-tuning of a pretraining checkpoint sets, as the official one does.
    finetuning_fields: ClassVar[dict[str, bool]] = {"is_causal": False, "add_pooling_layer": True}

    def __init__(self, config: NepaConfig):
        super().__init__(config)
        config = self.config
        self.nepa = NepaModel(config)
        pooled = config.add_pooling_layer
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if pooled else nn.Identity()
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the classifier reads, (B, 1 + N, D) -> (B, D): the mean of the patches, or the last one."""
        return self.fc_norm(tokens[:, 1:].mean(dim=1) if self.config.add_pooling_layer else tokens[:, -1])


__all__ = [
    "LAYER_NAMES",
    "NepaEmbeddings",
    "NepaForImageClassification",
    "NepaForPreTraining",
    "NepaModel",
    "NepaModelOutput",
    "NepaPreTrainedModel",
]
