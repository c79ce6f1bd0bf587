"""data2vec of text (Baevski et al. 2022, arXiv 2202.03555): regress averaged layers of a teacher at masked tokens.

The encoder is that of native transformers, a RoBERTa. Unlike in data2vec of images, targets are the outputs of the
feed-forward networks before the residual is added, each normalised over features, and a head of two layers stands on
the student. The teacher shares the embeddings.
"""

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.data2vec.modeling_data2vec_text import (
    Data2VecTextModel as NativeData2VecTextModel,
)
from transformers.models.data2vec.modeling_data2vec_text import (
    Data2VecTextPreTrainedModel as NativeData2VecTextPreTrainedModel,
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
from hf_jepa.models.data2vec_text.configuration_data2vec_text import Data2VecTextConfig


IGNORED_LABEL = -100  # what the collators of transformers write where no token was masked


def _without_padding(masked: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    return masked if attention_mask is None else masked & attention_mask.bool()


class Data2VecTextPreTrainedModel(JepaPreTrainedModel, NativeData2VecTextPreTrainedModel):
    """Flags and initialisation of all classes of data2vec for text."""

    config: Data2VecTextConfig
    base_model_prefix = "data2vec_text"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    _can_compile_fullgraph = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # That of BERT, which the native class has; the one of our vision models would be another.
        NativeData2VecTextPreTrainedModel._init_weights(self, module)


class Data2VecTextModel(Data2VecTextPreTrainedModel, NativeData2VecTextModel):
    """The data2vec encoder of text: native `Data2VecTextModel` without the pooler, which pretraining has no use for.

    Loads native checkpoints and pretraining checkpoints (their student).

    Example:
        >>> import torch
        >>> from hf_jepa import Data2VecTextConfig, Data2VecTextModel
        >>> model = Data2VecTextModel(Data2VecTextConfig(vocab_size=100, mask_token_id=99, hidden_size=32,
        ...     num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, top_k_layers=1)).eval()
        >>> model(torch.tensor([[0, 5, 7, 2]])).last_hidden_state.shape
        torch.Size([1, 4, 32])
    """

    _keys_to_ignore_on_load_unexpected = [r"^teacher\.", r"^predictor\.", r"^pooler\.", r"^lm_head\."]

    def __init__(self, config: Data2VecTextConfig):
        super().__init__(config, add_pooling_layer=False)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ):
        """Encode tokens; arguments and output as in the native class.

        Args:
            input_ids: LongTensor (B, L).
            attention_mask: (B, L), 0 where a text is padded.

        Raises:
            TypeError: an argument that the model does not know.
        """
        kwargs = runtime_options(self, kwargs)
        if return_dict is not None:
            kwargs["return_dict"] = return_dict
        return super().forward(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)


class Data2VecTextForPreTraining(Data2VecPreTrainingMixin, Data2VecTextPreTrainedModel):
    """Student (`data2vec_text`), teacher and head with the data2vec loss on masked tokens.

    Example:
        >>> import torch
        >>> from hf_jepa import Data2VecTextConfig, Data2VecTextForPreTraining
        >>> from hf_jepa.masking.spans import SpanMaskSampler
        >>> config = Data2VecTextConfig(vocab_size=100, mask_token_id=99, hidden_size=32, num_hidden_layers=2,
        ...                             num_attention_heads=4, intermediate_size=64, top_k_layers=2)
        >>> model = Data2VecTextForPreTraining(config)
        >>> tokens = torch.randint(3, 99, (2, 16))
        >>> masks = SpanMaskSampler(0.35, 4)(torch.arange(2), tokens > 2, step=0)
        >>> out = model(tokens, bool_masked_pos=masks)
        >>> out.loss.backward()
        >>> model.update_target_encoder(0.999)
    """

    encoder_class = Data2VecTextModel
    context_encoder_name = "data2vec_text"

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self,
        input_ids: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> JepaForPreTrainingOutput:
        """Regress the teacher's targets at masked tokens.

        The teacher must see the whole text, so it is given in one of two ways: as it is, with a mask; or masked
        already, with the tokens that were there as labels, as `DataCollatorForLanguageModeling` makes them.

        Args:
            input_ids: LongTensor (B, L), the whole text; with `labels`, the masked one.
            bool_masked_pos: BoolTensor (B, L), True where a token is masked; the student sees `mask_token_id` there.
            attention_mask: (B, L), 0 where a text is padded. Padding is no target.
            labels: LongTensor (B, L), the original tokens where the text is masked (or was changed), -100 elsewhere.

        Returns:
            `JepaForPreTrainingOutput`; `predictions` and `targets` are (R, D), a row for each masked token in the
            order of the texts; `context` is (B, L, D).

        Raises:
            ValueError: neither or both of mask and labels, or a text that holds mask tokens beside a mask.
        """
        kwargs = runtime_options(self, kwargs)
        if (bool_masked_pos is None) == (labels is None):
            raise ValueError("give the whole text with bool_masked_pos, or the masked one with labels")
        if labels is not None:
            masked = labels != IGNORED_LABEL
            whole, seen = torch.where(masked, labels, input_ids), input_ids
            masked = _without_padding(masked, attention_mask)
        else:
            masked = require_mask(bool_masked_pos, input_ids.shape, "bool_masked_pos")
            masked = _without_padding(masked, attention_mask)
            whole, seen = input_ids, input_ids.masked_fill(masked, self.config.mask_token_id)
        targets = self.encode_targets(whole, masked, attention_mask)
        student = self.context_encoder(seen, attention_mask, **kwargs, return_dict=True)
        return self.regress(student.last_hidden_state, masked, targets, student)

    @torch.no_grad()
    def encode_targets(
        self, input_ids: torch.Tensor, bool_masked_pos: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Targets of the masked tokens, float32 (R, D), from texts of which nothing is masked.

        Raises:
            ValueError: the texts hold mask tokens, of which the teacher can make no targets; a mask of another type
                or shape.
        """
        masked = require_mask(bool_masked_pos, input_ids.shape, "bool_masked_pos")
        if (input_ids == self.config.mask_token_id).any():
            raise ValueError(
                f"input_ids hold the mask token {self.config.mask_token_id}: the teacher needs the tokens that were "
                "there. Give the whole text with bool_masked_pos, or the original tokens as labels"
            )
        embeddings = self.context_encoder.embeddings
        with without_dropout(embeddings):
            tokens = embeddings(input_ids).to(self.teacher_dtype)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=tokens, attention_mask=attention_mask)
        encoder = self.teacher["encoder"]
        with recorded(layer.output.dense for layer in encoder.layer[-self.config.top_k_layers :]) as layers:
            encoder(tokens, attention_mask=mask)
        valid = None if attention_mask is None else attention_mask.bool()
        return self.masked_targets(layers, _without_padding(masked, attention_mask), valid)


__all__ = ["Data2VecTextForPreTraining", "Data2VecTextModel", "Data2VecTextPreTrainedModel"]
