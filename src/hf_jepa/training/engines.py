"""What DeepSpeed and FSDP need in order to train with the numbers of a single process."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import gather_object
from torch import nn
from torch.distributed.fsdp import FSDPModule, StateDictType, register_fsdp_forward_method
from transformers import Trainer
from transformers.utils import logging


logger = logging.get_logger(__name__)


Result = TypeVar("Result")


class EngineArguments:
    """`TrainingArguments` in which bf16 is autocast over weights in float32, whatever the engine.

    DeepSpeed's own "bf16" casts the model, and a target encoder with it, which then no longer moves: its steps are
    smaller than what 16 bits resolve. So it is told to autocast instead, unless its configuration asks for the other
    by name. It also gets no optimizer of its own: the one of the recipe runs where the states are, also on the host.

    Raises:
        ValueError: a launch configuration with a precision that the recipe does not have; LARS under DeepSpeed.
    """

    def __post_init__(self):
        super().__post_init__()
        precision = "bf16" if self.bf16 else "fp16" if self.fp16 else "no"
        if self.mixed_precision != precision:
            raise ValueError(
                f"the launch configuration has mixed_precision: {self.mixed_precision}, but the recipe decides that: "
                f"set it to 'no' there, and {self.mixed_precision}: true in the recipe if that is meant"
            )
        plugin = self.deepspeed_plugin
        if plugin is None:
            return
        if getattr(self, "optimizer", None) == "lars":
            raise ValueError(
                "optimizer=lars asks how long each matrix is, of which DeepSpeed makes one flat piece: take ddp.yaml"
            )
        config = plugin.deepspeed_config
        config.setdefault("zero_force_ds_cpu_optimizer", False)
        if config["zero_optimization"].get("stage") == 3:  # or no weights would be saved
            config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
        if not self.bf16 or _asks_for_16_bits(_given_config(self)):
            return
        held = [config] if getattr(plugin, "dschf", None) is None else [config, plugin.dschf.config]
        for each in held:  # the second is the copy that models are loaded by
            each["bf16"] = {}  # neither on nor off, which everybody else leaves alone
            # Without a list of modules whose weights and gradients would travel in 16 bits.
            each.setdefault("torch_autocast", {"enabled": True, "dtype": "bfloat16"})
            each["torch_autocast"].setdefault("lower_precision_safe_modules", [])
        if (own := getattr(self, "hf_deepspeed_config", None)) is not None:
            own.mismatches.clear()
            own.trainer_config_process(self)  # again, for the type that inputs get

    @property
    def uses_engine(self) -> bool:
        """Whether DeepSpeed or FSDP holds the weights."""
        by_fsdp = self.fsdp_plugin_args is not None or os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
        return self.deepspeed_plugin is not None or by_fsdp


class EngineMixin:
    """A `Trainer` whose engine keeps weights, gradients and the target encoder in float32.

    Raises:
        ValueError: an engine that would hold a target encoder in 16 bits; FSDP of version 1, which flattens the
            parameters that a target encoder is averaged by.
    """

    _all_learn = False  # whether that has been looked at

    def create_accelerator_and_postprocess(self: Trainer) -> None:
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        kind = _asks_for_16_bits(state.deepspeed_plugin.deepspeed_config) if self.is_deepspeed_enabled else None
        if kind and getattr(self.model.config, "target_source", None) == "ema":
            raise ValueError(
                f'"{kind}": {{"enabled": true}} of DeepSpeed stores the target encoder in 16 bits, in which an '
                f'average with a momentum near 1 does not move: leave "{kind}" out of its configuration, and set '
                "bf16: true in the recipe, which autocasts over weights in float32"
            )
        if self.is_fsdp_enabled:
            plugin = state.fsdp_plugin
            if plugin.fsdp_version != 2:
                raise ValueError(f"fsdp_version {plugin.fsdp_version}: set it to 2, as fsdp2.yaml does")
            # Its policy would cast weights as a whole and sum gradients in 16 bits; autocast is what others do.
            plugin.mixed_precision_policy = None
            if plugin.transformer_cls_names_to_wrap is None:
                plugin.transformer_cls_names_to_wrap = sharded_modules(self.model)

    def training_step(self: Trainer, model: nn.Module, *args: Any, **kwargs: Any):
        if not self.is_deepspeed_enabled or self._all_learn:
            return super().training_step(model, *args, **kwargs)
        reached: set[str] = set()
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        hooks = [p.register_hook(lambda _, name=name: reached.add(name)) for name, p in trained.items()]
        loss = super().training_step(model, *args, **kwargs)
        for hook in hooks:
            hook.remove()
        self._all_learn = True
        if idle := sorted(trained.keys() - set(gather_object(sorted(reached)))):
            logger.warning(
                f"{len(idle)} parameters take no part in the loss, such as {idle[0]}: DeepSpeed decays them, where "
                "other engines leave them alone. Freeze them by requires_grad_(False)"
            )
        return loss

    def save_model(self: Trainer, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save whole weights, whatever the engine; all processes must call it."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        plugin = self.accelerator.state.fsdp_plugin
        kind, plugin.state_dict_type = plugin.state_dict_type, StateDictType.FULL_STATE_DICT
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            plugin.state_dict_type = kind

    def autocast_smart_context_manager(self: Trainer, cache_enabled: bool | None = True):
        """Under FSDP Accelerate leaves the forward pass alone: its own way is the policy that is not wanted here."""
        return self.accelerator.autocast() if self.is_fsdp_enabled else super().autocast_smart_context_manager()


def called_apart(model: nn.Module, call: Callable[[], Result]) -> Result:
    """Call parts of a model by themselves, such as one of its encoders.

    Under FSDP a model gathers what belongs to none of its layers only while it is called itself. All processes must
    take part.

    Args:
        model: as the trainer trains it.
        call: uses its parts, without gradient.

    Example:
        >>> model = nn.Sequential(nn.Identity())
        >>> called_apart(model, lambda: model[0](1))
        1
    """
    if not isinstance(model, FSDPModule):
        return call()
    if not hasattr(model, "call_apart"):
        model.call_apart = lambda call: call()
        register_fsdp_forward_method(model, "call_apart")
    try:
        return model.call_apart(call)
    finally:
        model.reshard()


def sharded_modules(model: nn.Module) -> list[str]:
    """Classes of the modules that FSDP gathers one by one: those of `_no_split_modules` that the model has.

    But for those that hold the input embeddings, which Accelerate shards once more by themselves.

    Example:
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining
        >>> sharded_modules(IJepaForPreTraining(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     intermediate_size=32, image_size=16, patch_size=8, pred_hidden_size=8, pred_num_hidden_layers=1)))
        ['TransformerLayer']
    """
    embeddings = model.get_input_embeddings()
    modules = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    around = {type(module) for module in modules if any(each is embeddings for each in module.modules())}
    return sorted({type(module).__name__ for module in modules if type(module) not in around})


def _given_config(arguments: Any) -> Mapping[str, Any]:
    """DeepSpeed's configuration as the user wrote it, empty where it is Accelerate's."""
    given = arguments.deepspeed or os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if isinstance(given, str):
        return {} if given == "none" else json.loads(Path(given).read_text(encoding="utf-8"))
    return given


def _asks_for_16_bits(config: Mapping[str, Any]) -> str | None:
    """The section, "bf16" or "fp16", by which DeepSpeed casts the whole model."""
    return next((kind for kind in ("bf16", "fp16") if config.get(kind, {}).get("enabled") is True), None)


__all__ = ["EngineArguments", "EngineMixin", "called_apart", "sharded_modules"]
