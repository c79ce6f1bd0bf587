"""NEPA configuration: fields, names and defaults of the official `config.json`, and the objective."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_jepa.core.image_configuration import ImageConfigMixin
from hf_jepa.core.validation import require_activations, require_at_least, require_positive, require_rates


# The released models. Their feed-forward networks are plain; those of the paper's tables are gated (SwiGLU).
_RELEASED = {"patch_size": 14, "qk_norm": True, "add_pooling_layer": True}
SIZES = {
    "vit_base": _RELEASED
    | {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "vit_large": _RELEASED
    | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    | {"qk_norm_affine": True},
}


@strict
class NepaConfig(ImageConfigMixin, PreTrainedConfig):
    """Configuration of a NEPA: a causal ViT that predicts the embedding of the next patch.

    `model_type` is that of the Hub's checkpoints, so their `config.json` is read as it is. What a file leaves out has
    the official default; the released models are at `from_size`.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act, hidden_dropout_prob,
            attention_probs_dropout_prob, initializer_range, layer_norm_eps, num_channels, qkv_bias: the ViT, named as
            in native ones.
        image_size, patch_size: pixels, an int or (height, width). Images of any other size that divides into patches
            are welcome at run time.
        use_gated_mlp: gated feed-forward networks: SwiGLU with `hidden_act="silu"`, GeGLU with "gelu".
        rope_theta: base of the rotary frequencies; heads have a multiple of 4 channels.
        qk_norm: LayerNorm of queries and keys, per head.
        qk_norm_affine, qk_norm_bias: whether it learns a scale, and with it a bias.
        layerscale_value: start of the learnt factors on the branches of every layer; None: there are none.
        drop_path_prob: stochastic depth of the last layer; it grows linearly from 0.
        add_pooling_layer: whether the classifier reads the mean of the patches through a LayerNorm, or the last token.
        is_causal: whether tokens see only what comes before them. Pretraining needs True; the official fine-tuning
            sets False.
        pos_embed_shift, pos_embed_jitter, pos_embed_rescale: how places are perturbed while training, see
            `perturb_centres`; None: not at all.
        target_source, target_normalization, loss_type: see `JepaConfigMixin`. Targets are the model's own input
            embeddings, without gradient; the loss is minus the cosine similarity.

    Example:
        >>> from hf_jepa import NepaConfig
        >>> config = NepaConfig.from_size("vit_base")
        >>> config.hidden_size, config.grid_size, config.is_causal
        (768, (16, 16), True)
    """

    model_type = "vit_nepa"
    target_sources = ("input_embedding",)
    sizes = SIZES

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    use_gated_mlp: bool = False
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-12
    rope_theta: float | int = 100.0
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    qkv_bias: bool = True
    qk_norm: bool = False
    qk_norm_affine: bool = False
    qk_norm_bias: bool = False
    layerscale_value: float | int | None = 1e-5
    drop_path_prob: float | int = 0.0
    add_pooling_layer: bool = False
    is_causal: bool = True
    pos_embed_shift: float | int | None = None
    pos_embed_jitter: float | int | None = None
    pos_embed_rescale: float | int | None = 2.0
    target_source: str = "input_embedding"
    target_normalization: str = "none"
    loss_type: str = "cosine"
    base_model_fsdp_plan = {"layers.*": "free_full_weight", "layernorm": "keep_full_weight"}

    def validate_networks(self):
        width, heads = self.hidden_size, self.num_attention_heads
        if heads < 1 or width < 1 or width % heads or width // heads % 4:
            raise ValueError(
                f"hidden_size {width} with {heads} attention heads: heads need a multiple of 4 channels, for two "
                "rotary axes"
            )
        require_at_least(self, 1, ("num_hidden_layers", "intermediate_size", "num_channels"))

    def validate_numbers(self):
        require_positive(self, "layer_norm_eps", "initializer_range", "rope_theta")
        require_rates(self, "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_prob")
        require_at_least(self, 0, ("pos_embed_shift",))
        require_at_least(self, 1, ("pos_embed_jitter", "pos_embed_rescale"))
        require_activations(self, "hidden_act")


__all__ = ["SIZES", "NepaConfig"]
