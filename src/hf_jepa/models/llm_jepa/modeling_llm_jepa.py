"""LLM-JEPA (2509.14252): a language model that also predicts the embedding of one view of a text from the other's.

Unlike the other members of the family it has no encoder, predictor or target encoder of its own: all three are the
language model. Text followed by predictor tokens is one view, Code, what the text describes, the other; the embedding
of each is the state of one token behind the last layer, and both get gradients. The language model stays an ordinary
one: it is saved, loaded, adapted and asked to generate as such.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import ModelOutput

from hf_jepa.core.loading import require_weights
from hf_jepa.core.modeling import runtime_options
from hf_jepa.losses.pair_distance import pair_distance
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig, objective_fields
from hf_jepa.models.llm_jepa.separation_llm_jepa import SeparationMixin


IGNORED = -100


@dataclass
class LlmJepaOutput(ModelOutput):
    """Output of `LlmJepaForCausalLM`.

    Args:
        loss: scalar to backpropagate, `lm_weight * lm_loss + jepa_weight * jepa_loss`.
        lm_loss: scalar, the mean cross-entropy of the learnt tokens.
        jepa_loss: scalar, the mean distance between the embeddings of the two views.
        text_embedding, code_embedding: (B, D).
        logits: (R, P, V), where no labels were given.
        hidden_states, attentions: of the language model, when asked for.

    Example:
        >>> LlmJepaOutput(loss=torch.tensor(0.5)).to_tuple()
        (tensor(0.5000),)
    """

    loss: torch.FloatTensor | None = None
    lm_loss: torch.FloatTensor | None = None
    jepa_loss: torch.FloatTensor | None = None
    text_embedding: torch.FloatTensor | None = None
    code_embedding: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class LlmJepaForCausalLM(SeparationMixin, PreTrainedModel):
    """Any causal language model of transformers with the LLM-JEPA objective.

    It is called with the batches of `LlmJepaDataCollator`. What is saved is the language model, with the fields of the
    objective in its config: stock `AutoModelForCausalLM` loads the folder and generates from it.

    Args:
        config: which language model, and the objective.
        language_model: that model, also one that peft has given adapters; a fresh one of the config unless given.

    Raises:
        ValueError: the model is none that the layout of the config is right for.

    Example:
        >>> from hf_jepa import LlmJepaConfig, LlmJepaDataCollator, LlmJepaForCausalLM, TextPair
        >>> llama = {"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32,
        ...     "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
        >>> model = LlmJepaForCausalLM(LlmJepaConfig(text_config=llama))
        >>> pair = TextPair([1, 5, 6, 7, 2], [-100, -100, -100, 7, 2], [1, 5, 6, 9], 3, [1, 7], 1, 2, (9,))
        >>> out = model(**LlmJepaDataCollator(pad_token_id=0)([pair]))
        >>> out.text_embedding.shape
        torch.Size([1, 16])
    """

    config: LlmJepaConfig
    base_model_prefix = "language_model"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # For `Trainer`: the losses are sums over what the whole batch holds, see `forward`.
    accepts_loss_kwargs = True

    def __init__(self, config: LlmJepaConfig, language_model: nn.Module | None = None):
        config.validate()
        super().__init__(config)
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.language_model = language_model
        config.text_config = self.causal_lm.config  # one object, so that a resized vocabulary is known to both
        config._attn_implementation = self.causal_lm.config._attn_implementation
        convolutions = [part for part in self._decoder.modules() if isinstance(part, nn.Conv1d)]
        self._is_recurrent = getattr(self.causal_lm, "_is_stateful", False) or bool(convolutions)
        self._takes_positions = "position_ids" in inspect.signature(type(self.causal_lm).forward).parameters
        self._require_class()
        self._tried: tuple | None = None  # with which settings `check_layout` found nothing wrong
        self._leave_weights()
        self.post_init()

    def _leave_weights(self) -> None:
        """The language model has initialised itself, and its adapters: they are not to be initialised again."""
        if self.device.type != "meta":
            for part in self.modules():
                part._is_hf_initialized = True

    # --- the language model -------------------------------------------------------------------------------------

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The language model, inside its adapters where it has some."""
        model = self.language_model
        return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model

    @property
    def generation_config(self):
        return self.causal_lm.generation_config

    @generation_config.setter
    def generation_config(self, value):
        if "language_model" in self._modules:
            self.causal_lm.generation_config = value

    def generate(self, *args, **kwargs) -> torch.Tensor:
        """As the language model does."""
        return self.language_model.generate(*args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        return self.causal_lm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.causal_lm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.causal_lm.get_output_embeddings()

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """Resize those of the language model; its config knows."""
        return self.causal_lm.resize_token_embeddings(*args, **kwargs)

    @property
    def _decoder(self) -> nn.Module:
        """The part of the language model below its head, whose states are the embeddings."""
        model = self.causal_lm
        decoder = model.get_decoder()  # deeper than `base_model` where that is never called, as in OPT
        if decoder is model:  # Llama 4's for text alone, which has it where its class does not say
            decoder = getattr(model, "model", model)
        return decoder if isinstance(decoder, PreTrainedModel) else model.base_model

    # --- the objective ------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        label_index: torch.LongTensor | None = None,
        text_index: torch.LongTensor | None = None,
        code_index: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        num_pairs_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> LlmJepaOutput | tuple:
        """
        Args:
            input_ids: (R, P), in any layout of `lay_out`.
            attention_mask: (R, P), 1 for tokens and 0 for padding; or (R, 1, P, P), True where a token may see
                another. Not with packed rows, which their positions keep apart.
            position_ids: (R, P); counted from the mask unless given.
            labels: (R, P), -100 where nothing is learnt; shifted here. Logits are computed of the others alone.
            label_index: (N,), the places among R * P whose label is not -100, where the caller knows them: looking for
                them makes the host wait for the device.
            text_index, code_index: (B,), the places among R * P where the embeddings are read. Without them only the
                language-model loss is computed.
            num_items_in_batch: by which the summed language-model loss is divided: the learnt tokens of all batches
                that are accumulated, in all processes. Unless given, those of this call.
            num_pairs_in_batch: likewise for the distances of pairs.
            return_dict: a `LlmJepaOutput` (default) or a tuple.

        Raises:
            ValueError: a 2-D mask with packed rows; a layout that the language model cannot tell apart; no learnt
                token; an index without what it belongs to.
        """
        options = runtime_options(self, kwargs)
        if (text_index is None) != (code_index is None):
            raise ValueError("text_index and code_index come together: the loss compares two embeddings")
        if labels is None and label_index is not None:
            raise ValueError("label_index says where labels are learnt: give the labels, too")
        packed = attention_mask is None and position_ids is not None  # also LM rows alone
        if (text_index is not None or packed) and self._tried != self._settings and not torch.compiler.is_compiling():
            self.check_layout()
        attention_mask, position_ids = self._seen(attention_mask, position_ids, text_index is not None)
        if labels is not None and label_index is None:
            label_index = self._learnt_places(labels)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        with self._states_and_logits_at(label_index) as kept:
            out = self.causal_lm(
                **{name: value for name, value in inputs.items() if value is not None},
                **(options | {"use_cache": False, "return_dict": True}),
            )
        losses = {}
        if label_index is not None:
            losses["lm_loss"] = self._lm_loss(out.logits[0], labels, label_index, num_items_in_batch)
        embeddings = {}
        if text_index is not None:
            states = kept["states"].flatten(0, 1)
            embeddings = {"text_embedding": states[text_index], "code_embedding": states[code_index]}
            losses["jepa_loss"] = self._jepa_loss(**embeddings, num_pairs=num_pairs_in_batch)
        weights = {"lm_loss": self.config.lm_weight, "jepa_loss": self.config.jepa_weight}
        output = LlmJepaOutput(
            loss=sum(weights[name] * loss for name, loss in losses.items()) if losses else None,
            logits=out.logits if label_index is None else None,
            hidden_states=out.get("hidden_states"),
            attentions=out.get("attentions"),
            **losses,
            **embeddings,
        )
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return output if wants_dict else output.to_tuple()

    def _lm_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, label_index: torch.Tensor, num_items: torch.Tensor | None
    ) -> torch.Tensor:
        if not len(label_index) and num_items is None:
            raise ValueError("nothing is learnt from this batch: every label is -100")
        learnt = labels.flatten()[label_index]
        total = nn.functional.cross_entropy(logits.float(), learnt, reduction="sum")
        return total / (len(learnt) if num_items is None else num_items)

    def _jepa_loss(
        self, text_embedding: torch.Tensor, code_embedding: torch.Tensor, num_pairs: torch.Tensor | None
    ) -> torch.Tensor:
        config = self.config
        if config.stop_gradient == "text":
            text_embedding = text_embedding.detach()
        if config.stop_gradient == "code":
            code_embedding = code_embedding.detach()
        distances = pair_distance(
            text_embedding,
            code_embedding,
            config.distance,
            config.infonce_temperature,
            config.infonce_symmetric,
            config.infonce_gather,
        )
        return distances.sum() / (len(distances) if num_pairs is None else num_pairs)

    @staticmethod
    def _learnt_places(labels: torch.Tensor) -> torch.Tensor:
        places = labels != IGNORED
        places[:, 0] = False  # nothing precedes them
        return places.flatten().nonzero().squeeze(1)

    @contextmanager
    def _states_and_logits_at(self, label_index: torch.Tensor | None) -> Iterator[dict[str, torch.Tensor]]:
        """Keep the states behind the last layer, and let the head compute the logits of these labels alone, (1, N, V).

        What a model does to its logits (soft caps, scales) is so done by the model itself.
        """
        kept: dict[str, torch.Tensor] = {}

        def keep(module, args, output):
            kept["states"] = output[0] if isinstance(output, tuple) else output.last_hidden_state

        def select(module, args):
            return (args[0].flatten(0, 1)[label_index - 1].unsqueeze(0), *args[1:])

        handles = [self._decoder.register_forward_hook(keep)]
        if label_index is not None:
            handles.append(self.causal_lm.get_output_embeddings().register_forward_pre_hook(select))
        try:
            yield kept
        finally:
            for handle in handles:
                handle.remove()

    # --- checkpoints --------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        config: LlmJepaConfig | None = None,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """Load any causal language model; fields of the objective are those of its config, or as given here.

        Args:
            pretrained_model_name_or_path: Hub id or folder of a language model, saved by this class or by any other.
            config: instead of the config found there.
            output_loading_info: also return transformers' report.
            kwargs: fields of the objective, and anything that `AutoModelForCausalLM.from_pretrained` takes.

        Raises:
            ValueError: weights of the language model are missing.
        """
        hub = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies")
        objective = {name: kwargs.pop(name) for name in objective_fields() if name in kwargs}
        if config is None:
            found = {name: kwargs[name] for name in hub if name in kwargs}
            config = LlmJepaConfig.from_pretrained(pretrained_model_name_or_path, **found, **objective)
        else:
            config = copy.deepcopy(config)
            for name, value in objective.items():
                setattr(config, name, value)
            config.validate()  # before the weights are read
        language_model, info = AutoModelForCausalLM.from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            config=config.text_config,
            output_loading_info=True,
            **kwargs,
        )
        remedy = "check that the checkpoint is not truncated"
        require_weights(info["missing_keys"], pretrained_model_name_or_path, type(language_model).__name__, remedy)
        model = cls(config, language_model).eval()
        model.name_or_path = str(pretrained_model_name_or_path)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory, state_dict: dict[str, torch.Tensor] | None = None, **kwargs) -> None:
        """Write an ordinary checkpoint of the language model, see the class; with adapters, theirs.

        Args:
            save_directory: folder.
            state_dict: of this model, where it had to be gathered from several processes.
            kwargs: as in transformers.
        """
        if state_dict is not None:
            state_dict = {key.removeprefix("language_model."): value for key, value in state_dict.items()}
        with self.config.told_to_language_model():
            self.language_model.save_pretrained(save_directory, state_dict=state_dict, **kwargs)


__all__ = ["LlmJepaForCausalLM", "LlmJepaOutput"]
