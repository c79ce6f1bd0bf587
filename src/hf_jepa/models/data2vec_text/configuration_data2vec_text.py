"""Configuration of data2vec for text: native transformers' `Data2VecTextConfig` plus the objective."""

from huggingface_hub.dataclasses import strict
from transformers.models.data2vec.configuration_data2vec_text import Data2VecTextConfig as NativeData2VecTextConfig

from hf_jepa.core.data2vec import Data2VecConfigMixin
from hf_jepa.core.validation import require_activations, require_rates


@strict
class Data2VecTextConfig(Data2VecConfigMixin, NativeData2VecTextConfig):
    """Configuration of data2vec for text: native fields for the encoder, and the objective.

    `model_type` stays "data2vec-text", so a checkpoint also loads in stock transformers (as its student). Defaults
    are those of the official model, which has the vocabulary of RoBERTa.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act, hidden_dropout_prob,
            attention_probs_dropout_prob, initializer_range, pad_token_id, ...: the encoder, as in the native class.
        vocab_size, max_position_embeddings, type_vocab_size, layer_norm_eps: 50265, 514 (512 positions, counted from
            pad_token_id + 1), 1 and 1e-5, as in the official model.
        mask_token_id: the token that stands in for masked ones.
        top_k_layers, layer_target_normalization, loss_beta, loss_scale, pred_num_layers: see `Data2VecConfigMixin`.
        target_source, target_normalization, loss_type: see `JepaConfigMixin`.

    Example:
        >>> from hf_jepa import Data2VecTextConfig
        >>> config = Data2VecTextConfig.from_size("base")
        >>> config.top_k_layers, config.layer_target_normalization, config.loss_beta, config.pred_num_layers
        (10, 'layer_norm', 4.0, 2)
    """

    vocab_size: int = 50265
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    mask_token_id: int = 50264
    top_k_layers: int = 10
    layer_target_normalization: str = "layer_norm"
    target_normalization: str = "none"
    loss_beta: float | int = 4.0
    loss_scale: float | int | None = 1.0
    pred_num_layers: int = 2

    def validate_text(self):
        if self.is_decoder or self.add_cross_attention:
            raise ValueError(
                "is_decoder and add_cross_attention must be False: masked tokens are seen from both sides"
            )
        for name in ("mask_token_id", "pad_token_id"):
            token = getattr(self, name)
            if token is None or not 0 <= token < self.vocab_size:
                raise ValueError(f"{name} {token} is not in the vocabulary of {self.vocab_size} tokens")
        if self.max_position_embeddings <= self.pad_token_id + 1:
            raise ValueError(
                f"max_position_embeddings {self.max_position_embeddings} leaves no position after pad_token_id "
                f"{self.pad_token_id}"
            )
        require_rates(self, "hidden_dropout_prob", "attention_probs_dropout_prob")
        require_activations(self, "hidden_act")


__all__ = ["Data2VecTextConfig"]
