"""LoRA adapters: the weights that they stand for, on whatever shards of these a process holds."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from hf_jepa.core.shards import is_gathered, local_shard, shard_like


# peft and deepspeed are imported by name where they are needed: transformers takes every import statement of code that
# lies beside exported weights for something that has to be installed.

# What peft makes of the name of a layer: the layer that it wraps, and the matrices beside it.
_WRAPPED = re.compile(r"(^|\.)base_layer\.")
_MATRIX = re.compile(r"(^|\.)lora_\w+\.")


class AdaptedWeight:
    """A weight with LoRA adapters: the base weight, and the change that the active adapters make.

    Args:
        layer: of peft.
        name: of the layer, for messages.

    Raises:
        ValueError: the layer does something else than to add `get_delta_weight` to its weight, as with DoRA or a bias
            of the adapter.

    Example:
        >>> from peft import LoraConfig, inject_adapter_in_model
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> config = LoraConfig(r=1, target_modules=["0"], init_lora_weights=False)
        >>> layer = inject_adapter_in_model(config, model)[0]
        >>> adapted = AdaptedWeight(layer, "0")
        >>> torch.allclose(layer(torch.eye(2)), (adapted.base + adapted.change()).T)
        True
    """

    def __init__(self, layer: nn.Module, name: str):
        if reason := _not_plain(layer):
            raise ValueError(
                f"{name} has an adapter of another kind ({reason}) than those whose effective weight is known here: "
                "take peft's LoraConfig without variants, on linear layers, embeddings and convolutions without groups"
            )
        self.layer, self.name = layer, name

    @property
    def base(self) -> nn.Parameter:
        """The weight without its adapters."""
        return self.layer.base_layer.weight

    def matrices(self) -> list[nn.Parameter]:
        """The parameters that make the change."""
        return [parameter for name, parameter in self.layer.named_parameters() if _MATRIX.search(name)]

    def change(self) -> torch.Tensor:
        """What the forward of the layer adds to the weight; a DTensor where the matrices are.

        Raises:
            ValueError: nothing, because the adapters are merged or switched off.
        """
        layer = self.layer
        active = [name for name in layer.active_adapters if name in layer.scaling]
        if layer.merged or layer.disable_adapters or not active:
            raise ValueError(f"the adapters of {self.name} are merged, disabled or not active: unload them")
        first, *others = (layer.get_delta_weight(name) for name in active)
        return sum(others, start=first)

    def effective_shard(self, change: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The part of base weight and change together that belongs to this process; `change` may be overwritten."""
        return shard_like(self.base, change).to(dtype).contiguous().add_(local_shard(self.base))


def _not_plain(layer: nn.Module) -> str | None:
    lora = import_module("peft.tuners.lora.layer")  # slow, but whoever has adapters has done so

    if type(layer) not in (lora.Linear, lora.Embedding, lora.Conv1d, lora.Conv2d, lora.Conv3d):
        return f"{type(layer).__module__}.{type(layer).__name__}"
    if layer.lora_variant:
        return type(next(iter(layer.lora_variant.values()))).__name__
    if any(layer.lora_bias.values()):
        return "lora_bias"
    return "groups" if getattr(layer.base_layer, "groups", 1) > 1 else None


def adapted_weights(module: nn.Module) -> dict[str, AdaptedWeight]:
    """The weights of a module that have adapters, by the names that they have without.

    Raises:
        ValueError: see `AdaptedWeight`.
    """
    layers = {name: layer for name, layer in module.named_modules() if hasattr(layer, "base_layer")}
    return {f"{name}.weight".removeprefix("."): AdaptedWeight(layer, name) for name, layer in layers.items()}


def adapted_names(names: Iterable[str]) -> list[str]:
    """Those of the names of tensors that say that their layer has adapters.

    Example:
        >>> adapted_names(["q_proj.base_layer.weight", "k_proj.weight"])
        ['q_proj.base_layer.weight']
    """
    return [name for name in names if _WRAPPED.search(name)]


def without_adapters(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of a module by the names that they have without adapters, whose matrices are left out.

    Example:
        >>> without_adapters({"0.base_layer.weight": 1, "0.lora_A.default.weight": 2, "1.bias": 3})
        {'0.weight': 1, '1.bias': 3}
    """
    return {_WRAPPED.sub(r"\1", name): tensor for name, tensor in tensors.items() if not _MATRIX.search(name)}


@contextmanager
def whole_matrices(weights: Iterable[AdaptedWeight]) -> Iterator[None]:
    """While changes are computed: under ZeRO-3 every process has the matrices as a whole, by one communication."""
    cut = [p for each in weights for p in each.matrices() if hasattr(p, "ds_tensor") and not is_gathered(p)]
    if not cut:
        yield
        return
    with import_module("deepspeed").zero.GatheredParameters(cut):
        yield


@torch.no_grad()
def merge_adapters(module: nn.Module) -> None:
    """Fold all adapters into the weights that they adapt, in place; every process changes the shards that it holds.

    Args:
        module: whose layers are ordinary ones afterwards.

    Raises:
        ValueError: see `AdaptedWeight`.

    Example:
        >>> from peft import LoraConfig, inject_adapter_in_model
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> config = LoraConfig(r=1, target_modules=["0"], init_lora_weights=False)
        >>> before = inject_adapter_in_model(config, model)(torch.eye(2))
        >>> merge_adapters(model)
        >>> type(model[0]).__name__, torch.allclose(model(torch.eye(2)), before)
        ('Linear', True)
    """
    adapted = adapted_weights(module)
    with whole_matrices(adapted.values()):
        for each in adapted.values():
            change = each.change()
            local_shard(each.base).add_(shard_like(each.base, change))
            if is_gathered(each.base):
                each.base.data.add_(change)
            parent, _, child = each.name.rpartition(".")
            setattr(module.get_submodule(parent), child, each.layer.base_layer)
    for part in module.modules():
        vars(part).pop("peft_config", None)  # which peft leaves where it has put adapters


__all__ = [
    "AdaptedWeight",
    "adapted_names",
    "adapted_weights",
    "merge_adapters",
    "whole_matrices",
    "without_adapters",
]
