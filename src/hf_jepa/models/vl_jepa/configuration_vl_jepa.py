"""VL-JEPA configuration: which networks its parts are, and what the objective is."""

import copy
import math
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_jepa.core.backbones import backbone_width
from hf_jepa.core.validation import require_at_least, require_choices
from hf_jepa.layers.patch_embedding import pair


LOSS_TYPES = ("infonce", "cosine", "l1", "l2")
CHOICES = {
    "pooling": ("all", "query"),
    "text_pooling": ("mean", "cls", "last"),
    "loss_type": LOSS_TYPES,
    "regularization_type": (None, "vicreg", "sigreg"),
}
_AT_LEAST_ONE = (
    "num_predictor_layers",
    "projection_dim",
    "max_query_length",
    "max_target_length",
    "num_prefix_tokens",
)

# Llama-3.2-1B and EmbeddingGemma-300M, of which the paper's predictor and Y-Encoder are made.
LLAMA_3_2_1B = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
EMBEDDING_GEMMA_300M = {
    "vocab_size": 262144,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 24,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "max_position_embeddings": 2048,
    "sliding_window": 512,
    "use_bidirectional_attention": True,
}


def last_layers(config: PreTrainedConfig, count: int, causal: bool = False) -> PreTrainedConfig:
    """The config of a language model's last layers.

    Args:
        config: of the whole language model; it is not changed.
        count: number of layers that are kept.
        causal: whether tokens see only those before them.

    Raises:
        ValueError: the language model has fewer layers.

    Example:
        >>> from transformers import LlamaConfig
        >>> last_layers(LlamaConfig(num_hidden_layers=16), 8).num_hidden_layers
        8
    """
    config, depth = copy.deepcopy(config), config.num_hidden_layers
    if count > depth:
        raise ValueError(f"num_predictor_layers {count} is more than the {depth} layers of predictor_config")
    for name, value in vars(config).copy().items():
        if "layer" in name and isinstance(value, list) and len(value) == depth:  # what each layer is
            setattr(config, name, value[depth - count :])
    config.num_hidden_layers = count
    config.is_causal = causal  # transformers then makes masks that hide padding alone
    config.use_cache = False
    return config


@strict
class VLJepaConfig(PreTrainedConfig):
    """Configuration of a VL-JEPA (2512.10942). The defaults are the paper's model where the paper says what it is.

    Args:
        vision_config: of the X-Encoder, a config or the fields of one with its `model_type`: any video or image
            encoder of this package or of transformers. Default: ViT-L of V-JEPA 2.
        predictor_config: of the language model whose last layers are the predictor. One with more layers than
            `num_predictor_layers` is cut to the last ones. Default: Llama-3.2-1B.
        text_config: of the Y-Encoder, any encoder of texts. Default: EmbeddingGemma-300M.
        decoder_config: of the Y-Decoder, any causal language model; None where there is none.
        num_predictor_layers: layers of the predictor.
        source_num_layers, layer_slice: how many layers the language model had, and which of them were kept (first, and
            the one after the last); found out unless given.
        projection_dim: width of the space in which predictions and texts are compared.
        pooling: which tokens the prediction is the mean of: "all", or those of the "query" (all where it is empty).
        causal: keep the causal mask of the language model (an ablation of the paper).
        max_query_length, max_target_length: longest query and target, in tokens.
        logit_scale_init, logit_scale_max: logarithm of what similarities are multiplied by, at the start and at most.
        learn_logit_scale: learn it.
        freeze_vision, freeze_text, freeze_token_embeddings: what is not trained: X-Encoder, Y-Encoder (not its
            projection), token embeddings of the predictor.
        text_pooling: how the states of a text become one vector: "mean" over its tokens, its first ("cls") or "last".
        project_text: whether a linear layer follows; without one `projection_dim` must be the width of the Y-Encoder.
        loss_type: "infonce" in both directions; "cosine" (one minus it), "l1" and "l2" (mean square) are means over
            pairs, which need a regulariser or a Y-Encoder that is frozen and not projected.
        regularization_type: "vicreg" (variance and covariance, with the official weights) or "sigreg", of predictions
            and targets.
        regularization_weight: of that term.
        mask_duplicates: targets of equal text are no negatives of one another ("infonce").
        gather_negatives: negatives from all processes instead of each its own ("infonce").
        num_prefix_tokens: tokens in front of the Y-Decoder's text that the embedding becomes.
        prefix_noise: standard deviation, in every channel, of the noise on the embedding (of length 1) that the
            Y-Decoder is trained with.
        initializer_range: standard deviation of the new linear layers.

    Example:
        >>> from hf_jepa import VLJepaConfig
        >>> config = VLJepaConfig()
        >>> config.vision_hidden_size, config.predictor_config.num_hidden_layers, config.text_hidden_size
        (1024, 8, 768)
        >>> config.source_num_layers, config.layer_slice
        (16, [8, 16])
    """

    model_type = "vl_jepa"
    sub_configs_defaults: ClassVar[dict] = {
        "vision_config": SubConfigSpec(AutoConfig, model_type="vjepa2"),
        "predictor_config": SubConfigSpec(AutoConfig, model_type="llama", init_kwargs=LLAMA_3_2_1B),
        "text_config": SubConfigSpec(AutoConfig, model_type="gemma3_text", init_kwargs=EMBEDDING_GEMMA_300M),
        "decoder_config": SubConfigSpec(AutoConfig, model_type="llama", optional=True),
    }

    vision_config: dict | PreTrainedConfig | None = None
    predictor_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    decoder_config: dict | PreTrainedConfig | None = None
    num_predictor_layers: int = 8
    source_num_layers: int | None = None
    layer_slice: list[int] | tuple[int, ...] | None = None
    projection_dim: int = 1536
    pooling: str = "all"
    causal: bool = False
    max_query_length: int = 512
    max_target_length: int = 512
    logit_scale_init: float | int = math.log(1 / 0.07)
    logit_scale_max: float | int = math.log(100)
    learn_logit_scale: bool = True
    freeze_vision: bool = True
    freeze_text: bool = False
    freeze_token_embeddings: bool = True
    text_pooling: str = "mean"
    project_text: bool = True
    loss_type: str = "infonce"
    regularization_type: str | None = None
    regularization_weight: float | int = 1.0
    mask_duplicates: bool = False
    gather_negatives: bool = True
    num_prefix_tokens: int = 8
    prefix_noise: float | int = 0.05
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        for name in self.sub_configs_defaults:  # of a model that is in use: what is set here is not for that one
            if isinstance(config := getattr(self, name), PreTrainedConfig):
                setattr(self, name, copy.deepcopy(config))
        super().__post_init__(**kwargs)
        depth = self.predictor_config.num_hidden_layers
        self.predictor_config = last_layers(self.predictor_config, self.num_predictor_layers, self.causal)
        if self.source_num_layers is None:
            self.source_num_layers, self.layer_slice = depth, [depth - self.num_predictor_layers, depth]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in transformers, but a decoder that is given is there before the config is made."""
        if kwargs.get("decoder_config") is not None:
            config_dict = config_dict | {"decoder_config": kwargs.pop("decoder_config")}
        return super().from_dict(config_dict, **kwargs)

    @property
    def vision_hidden_size(self) -> int:
        """Width of the tokens of the X-Encoder."""
        return backbone_width(self.vision_config)

    @property
    def text_hidden_size(self) -> int:
        """Width of the states of the Y-Encoder."""
        return backbone_width(self.text_config)

    @property
    def image_size(self) -> int | list[int]:
        """Pixels a side that the X-Encoder is made for."""
        size = getattr(self.vision_config, "image_size", None)
        return getattr(self.vision_config, "crop_size", 224) if size is None else size

    @property
    def num_channels(self) -> int:
        """Channels of a frame."""
        return getattr(self.vision_config, "num_channels", getattr(self.vision_config, "in_chans", 3))

    @property
    def frames_per_clip(self) -> int:
        """Frames that the X-Encoder is made for, 1 where it is one of images."""
        return getattr(self.vision_config, "frames_per_clip", getattr(self.vision_config, "num_frames", 1))

    @property
    def tubelet_size(self) -> int:
        """Frames of a token of the X-Encoder."""
        return getattr(self.vision_config, "tubelet_size", 1)

    def validate_vl_jepa(self):
        require_choices(self, **CHOICES)
        require_at_least(self, 1, _AT_LEAST_ONE)
        require_at_least(self, 0, ("prefix_noise", "regularization_weight", "initializer_range"))
        if not self.logit_scale_init <= self.logit_scale_max:
            raise ValueError(
                f"logit_scale_init {self.logit_scale_init} is above logit_scale_max {self.logit_scale_max}"
            )
        if self.mask_duplicates and self.loss_type != "infonce":
            raise ValueError(f"mask_duplicates=True changes nothing with loss_type={self.loss_type!r}: leave it out")

    def validate_parts(self):
        if not isinstance(self.predictor_config, PreTrainedConfig):
            return  # another check has failed before they were made
        if (depth := self.predictor_config.num_hidden_layers) != self.num_predictor_layers:
            raise ValueError(
                f"predictor_config has {depth} layers, but num_predictor_layers is {self.num_predictor_layers}: a "
                "predictor is cut when the config is made, so make a new one"
            )
        if self.text_config.is_encoder_decoder:
            raise ValueError(
                f"text_config is of a {self.text_config.model_type!r} model, an encoder with a decoder: choose one "
                "whose config names an encoder alone, such as 'bert', 'modernbert' or 'gemma3_text'"
            )
        if not self.project_text and self.text_hidden_size != self.projection_dim:
            raise ValueError(
                f"project_text=False compares predictions with the Y-Encoder's own {self.text_hidden_size} channels, "
                f"but projection_dim is {self.projection_dim}: set projection_dim={self.text_hidden_size}"
            )

    def validate_collapse(self):
        """A regression has a trivial answer, all embeddings alike, unless something forbids it."""
        fixed = self.freeze_text and not self.project_text
        regularised = self.regularization_type is not None and self.regularization_weight > 0
        if self.loss_type != "infonce" and not fixed and not regularised:
            raise ValueError(
                f"loss_type={self.loss_type!r} with targets that are trained (freeze_text={self.freeze_text}, "
                f"project_text={self.project_text}) makes all embeddings alike: use loss_type='infonce', a "
                "regularization_type ('vicreg' or 'sigreg'), or freeze_text=True with project_text=False"
            )

    def validate_size(self):
        if isinstance(self.vision_config, PreTrainedConfig):
            pair(self.image_size)
            backbone_width(self.vision_config)


__all__ = ["EMBEDDING_GEMMA_300M", "LLAMA_3_2_1B", "LOSS_TYPES", "VLJepaConfig", "last_layers"]
