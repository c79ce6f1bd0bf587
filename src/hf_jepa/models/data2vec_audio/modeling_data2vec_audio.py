"""data2vec of speech (Baevski et al. 2022, arXiv 2202.03555): regress averaged layers of a teacher at masked frames.

The encoder is that of native transformers: convolutions over the waveform, convolutional positions, post-norm
transformer. Unlike in data2vec of images, targets are the outputs of the feed-forward networks before the residual is
added, each normalised over time, and a linear head stands on the student.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import Wav2Vec2BaseModelOutput
from transformers.models.data2vec.modeling_data2vec_audio import (
    Data2VecAudioModel as NativeData2VecAudioModel,
)
from transformers.models.data2vec.modeling_data2vec_audio import (
    Data2VecAudioPreTrainedModel as NativeData2VecAudioPreTrainedModel,
)
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hf_jepa.core.data2vec import Data2VecPreTrainingMixin, recorded, require_mask
from hf_jepa.core.modeling import JepaPreTrainedModel, runtime_options
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.models.data2vec_audio.configuration_data2vec_audio import Data2VecAudioConfig


class Data2VecAudioPreTrainedModel(JepaPreTrainedModel, NativeData2VecAudioPreTrainedModel):
    """Flags and initialisation of all classes of data2vec for speech."""

    config: Data2VecAudioConfig
    base_model_prefix = "data2vec_audio"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    _no_split_modules = ["Data2VecAudioEncoderLayer"]
    _can_compile_fullgraph = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # That of wav2vec 2.0, which the native class has; the one of our vision models would be another.
        NativeData2VecAudioPreTrainedModel._init_weights(self, module)
        # transformers leaves out containers of other packages' models, which is where the native class says this.
        if getattr(module, "_init_uniform", False):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif getattr(module, "_init_bias_zero", False):
            init.zeros_(module.bias)


class Data2VecAudioModel(Data2VecAudioPreTrainedModel, NativeData2VecAudioModel):
    """The data2vec encoder of speech: native `Data2VecAudioModel`, its two halves callable on their own.

    Loads native checkpoints and pretraining checkpoints (their student).

    Example:
        >>> import torch
        >>> from hf_jepa import Data2VecAudioConfig, Data2VecAudioModel
        >>> model = Data2VecAudioModel(Data2VecAudioConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        ...     intermediate_size=64, conv_dim=[16], conv_kernel=[10], conv_stride=[5], top_k_layers=1)).eval()
        >>> model(torch.randn(2, 400)).last_hidden_state.shape
        torch.Size([2, 79, 32])
    """

    _keys_to_ignore_on_load_unexpected = [r"^teacher\.", r"^predictor\."]

    def __init__(self, config: Data2VecAudioConfig):
        super().__init__(config)

    def post_init(self):
        self.feature_projection.projection._init_uniform = True
        for layer in self.encoder.pos_conv_embed.layers:
            layer.conv._init_bias_zero = True
        super().post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first convolution over waveforms; the native class names none."""
        return self.feature_extractor.conv_layers[0].conv

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mask_time_indices: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> Wav2Vec2BaseModelOutput:
        """Encode waveforms, all frames or with some replaced by the mask token.

        Args:
            input_values: (B, samples), normalised to mean 0 and variance 1.
            attention_mask: (B, samples), 0 where a waveform is padded at its end.
            mask_time_indices: BoolTensor (B, T), True where a frame is masked. The model draws none itself.

        Returns:
            `last_hidden_state` (B, T, D) and `extract_features` (B, T, C).

        Raises:
            TypeError: an argument that the model does not know.
            ValueError: a mask of another type or shape.
        """
        kwargs = runtime_options(self, kwargs)
        if return_dict is not None:
            kwargs["return_dict"] = return_dict
        frames, features, valid = self.frames(input_values, attention_mask)
        return self.encode(frames, valid, mask_time_indices, features, **kwargs)

    def frames(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What stands before the transformer, without dropout: frames (B, T, D), features (B, T, C), valid (B, T)."""
        features = self.feature_extractor(input_values).transpose(1, 2)
        valid = None
        if attention_mask is not None:
            valid = self._get_feature_vector_attention_mask(features.shape[1], attention_mask)
        features = self.feature_projection.layer_norm(features)
        return self.feature_projection.projection(features), features, valid

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def encode(
        self,
        frames: torch.Tensor,
        valid: torch.Tensor | None = None,
        mask_time_indices: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        **kwargs,
    ) -> Wav2Vec2BaseModelOutput:
        """Dropout, masks and transformer, on what `frames` returns."""
        frames = self.feature_projection.dropout(frames)
        if mask_time_indices is not None:
            masked = require_mask(mask_time_indices, frames.shape[:2], "mask_time_indices").unsqueeze(-1)
            frames = torch.where(masked, self.masked_spec_embed.to(frames.dtype), frames)
        else:
            frames = frames.clone()  # the native encoder writes into it where it is padded
        hidden_states = self.encoder(frames, attention_mask=valid, **kwargs).last_hidden_state
        return Wav2Vec2BaseModelOutput(last_hidden_state=hidden_states, extract_features=features)


class Data2VecAudioForPreTraining(Data2VecPreTrainingMixin, Data2VecAudioPreTrainedModel):
    """Student (`data2vec_audio`), teacher and head with the data2vec loss on masked frames.

    Example:
        >>> import torch
        >>> from hf_jepa import Data2VecAudioConfig, Data2VecAudioForPreTraining
        >>> from hf_jepa.masking.spans import SpanMaskSampler
        >>> config = Data2VecAudioConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, top_k_layers=2,
        ...     intermediate_size=64, conv_dim=[16], conv_kernel=[10], conv_stride=[5])
        >>> model = Data2VecAudioForPreTraining(config)
        >>> masks = SpanMaskSampler(0.65, 10)(torch.arange(2), torch.ones(2, 79, dtype=torch.bool), step=0)
        >>> out = model(torch.randn(2, 400), mask_time_indices=masks)
        >>> out.loss.backward()
        >>> model.update_target_encoder(0.999)
    """

    encoder_class = Data2VecAudioModel
    context_encoder_name = "data2vec_audio"
    copied_parts = ("encoder.pos_conv_embed",)

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self,
        input_values: torch.Tensor,
        mask_time_indices: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> JepaForPreTrainingOutput:
        """Regress the teacher's targets at masked frames.

        Args:
            input_values: (B, samples), normalised to mean 0 and variance 1.
            mask_time_indices: BoolTensor (B, T), True where a frame is masked.
            attention_mask: (B, samples), 0 where a waveform is padded at its end. Padded frames are no targets.

        Returns:
            `JepaForPreTrainingOutput`; `predictions` and `targets` are (R, D), a row for each masked frame in the
            order of the waveforms; `context` is (B, T, D).
        """
        kwargs = runtime_options(self, kwargs)
        frames, _, valid = self.context_encoder.frames(input_values, attention_mask)
        masked = require_mask(mask_time_indices, frames.shape[:2], "mask_time_indices")
        masked = masked if valid is None else masked & valid
        targets = self._targets(frames, valid, masked)
        student = self.context_encoder.encode(frames, valid, masked, **kwargs, return_dict=True)
        return self.regress(student.last_hidden_state, masked, targets, student)

    @torch.no_grad()
    def encode_targets(
        self,
        input_values: torch.Tensor,
        mask_time_indices: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Targets of the masked frames, float32 (R, D), from waveforms of which nothing is masked."""
        frames, _, valid = self.context_encoder.frames(input_values, attention_mask)
        masked = require_mask(mask_time_indices, frames.shape[:2], "mask_time_indices")
        return self._targets(frames, valid, masked if valid is None else masked & valid)

    @torch.no_grad()
    def _targets(self, frames: torch.Tensor, valid: torch.Tensor | None, masked: torch.Tensor) -> torch.Tensor:
        encoder = self.teacher["encoder"]
        networks = [layer.feed_forward for layer in encoder.layers[-self.config.top_k_layers :]]
        with recorded(networks) as layers:
            # A copy, because the native encoder writes into it where it is padded.
            encoder(frames.detach().clone().to(self.teacher_dtype), attention_mask=valid)
        return self.masked_targets(layers, masked, None if self.config.official_padded_statistics else valid)


__all__ = ["Data2VecAudioForPreTraining", "Data2VecAudioModel", "Data2VecAudioPreTrainedModel"]
