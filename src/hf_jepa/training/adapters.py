"""Continued pretraining with LoRA: adapters in the context encoder, whose effective weights the target follows."""

from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig, PeftModel, inject_adapter_in_model
from transformers import Trainer, TrainingArguments

from hf_jepa.core.adapters import adapted_names, adapted_weights, merge_adapters
from hf_jepa.core.modeling import JepaPreTrainingMixin
from hf_jepa.training.run_cards import trained_of_all


def adapt_context_encoder(
    model: JepaPreTrainingMixin, rank: int, alpha: float | None = None, dropout: float = 0.0
) -> None:
    """Freeze the context encoder and give all its linear layers LoRA adapters; the predictor is trained as a whole.

    The adapters lie inside the model, without a wrapper of peft. So whatever saves the model saves base weights,
    adapters, the moving target encoder and the predictor, all that an exact resume needs.

    Args:
        model: changed in place.
        rank, alpha, dropout: of the adapters; `alpha` is twice the rank unless given, as for language models.

    Raises:
        ValueError: the context encoder has adapters already.

    Example:
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining
        >>> model = IJepaForPreTraining(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     intermediate_size=32, image_size=16, patch_size=8, pred_hidden_size=8, pred_num_hidden_layers=1))
        >>> adapt_context_encoder(model, rank=2)
        >>> sum(p.numel() for p in model.context_encoder.parameters() if p.requires_grad)
        448
        >>> model.update_target_encoder(0.996)  # towards the weights with what the adapters add
    """
    encoder = model.context_encoder
    if found := adapted_names(name for name, _ in encoder.named_parameters()):
        raise ValueError(f"the context encoder has adapters already, such as at {found[0]}: merge them first")
    alpha = 2 * rank if alpha is None else alpha
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear")
    inject_adapter_in_model(config, encoder)


@dataclass(kw_only=True)
class LoraArguments:
    """LoRA adapters that a run trains instead of weights."""

    lora_rank: int = field(default=0, metadata={"help": "Train LoRA adapters of this rank; 0: all weights."})
    lora_alpha: float | None = field(default=None, metadata={"help": "Their scale; twice the rank unless given."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of adapters."})


@dataclass(kw_only=True)
class AdapterArguments(LoraArguments):
    """LoRA adapters of the context encoder that a run trains instead of its weights."""

    def adapt(self, model: JepaPreTrainingMixin, training: TrainingArguments) -> JepaPreTrainingMixin:
        """The model, with adapters where they are asked for.

        Raises:
            ValueError: adapters would be uploaded before they are merged.
        """
        if not self.lora_rank:
            return model
        if training.push_to_hub and training.hub_strategy != "end":
            raise ValueError(
                f"hub_strategy={training.hub_strategy.value} would upload adapters before they are merged, with which "
                "from_pretrained cannot load the context encoder: use hub_strategy=end"
            )
        adapt_context_encoder(model, self.lora_rank, self.lora_alpha, self.lora_dropout)
        return model


class AdapterMixin:
    """A `Trainer` of a pretraining model whose context encoder may have adapters.

    Raises:
        ValueError: adapters of which checkpoints would be saved alone, without the target encoder and the predictor,
            or adapters in the target encoder; a checkpoint to resume from that has adapters where the model has none,
            or the other way round.
    """

    def __init__(self, model: JepaPreTrainingMixin, *args: Any, **kwargs: Any):
        if isinstance(model, PeftModel) or getattr(model, "_hf_peft_config_loaded", False):
            raise ValueError(
                "peft would save adapters alone, and a resumed run would have lost its target encoder and predictor: "
                "put them into the model by adapt_context_encoder(model, rank=...), not by get_peft_model or "
                "model.add_adapter"
            )
        if model.config.has_target_encoder and (inside := list(adapted_weights(model.target_encoder))):
            raise ValueError(
                f"the target encoder has adapters, at {inside[0]}: it follows the context encoder and learns nothing "
                "itself, so give them to the context encoder alone, by adapt_context_encoder(model, rank=...)"
            )
        super().__init__(model, *args, **kwargs)
        self._trained_values = trained_of_all(model)
        self._adapters = _described(model)

    def _issue_warnings_after_load(self: Trainer, load_result: Any) -> None:
        if found := adapted_names([*load_result.missing_keys, *load_result.unexpected_keys]):
            has = "has adapters, but the model none" if self._adapters is None else "lacks adapters of the model"
            raise ValueError(f"the checkpoint {has} ({found[0]}): resume with the lora_* of the run that wrote it")
        super()._issue_warnings_after_load(load_result)

    def merge_adapters(self: Trainer) -> None:
        """Fold adapters into the weights they adapt, so that an ordinary checkpoint is saved; without any, nothing."""
        merge_adapters(self.model)

    def adapter_facts(self) -> dict[str, str]:
        """What the card says of them; nothing without adapters."""
        if self._adapters is None:
            return {}
        return {"Adapters": self._adapters, "Trained values": "{:,} of {:,}".format(*self._trained_values)}


def _described(model: JepaPreTrainingMixin) -> str | None:
    weights = adapted_weights(model)
    ranks = sorted({rank for each in weights.values() for rank in each.layer.r.values()})
    if not weights:
        return None
    return f"LoRA of rank {', '.join(map(str, ranks))} on {len(weights)} layers, merged at the end"


__all__ = ["AdapterArguments", "AdapterMixin", "LoraArguments", "adapt_context_encoder"]
