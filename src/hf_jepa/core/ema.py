"""The exponential moving average that makes a target encoder, on whatever shards this process holds."""

import torch
from torch import nn

from hf_jepa.core.adapters import adapted_names, adapted_weights, whole_matrices, without_adapters
from hf_jepa.core.shards import is_gathered, local_shard


_PLAIN_SGD = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "maximize": False, "is_first_step": False}


class Average:
    """Moves one module towards another of the same architecture, in place; but for adapters without communication.

    Its parameters move, and its fixed tables as well: those are equal in all normal runs, and then stay exactly as
    they are; in a checkpoint where they differ they are averaged as the official code does, which keeps them among the
    parameters.

    Works on plain parameters (one process, DDP, ZeRO-0 to 2), on ZeRO-3 shards and on FSDP2 DTensors: target and
    source have equal shapes, so every process holds the same cut of both.

    Of a source with LoRA adapters the target follows the effective weights, base weight and change together. Under
    ZeRO-3 and FSDP2 the matrices of adapters are gathered for that, and nothing else.

    The tensors are collected once, because finding them in two modules takes a small model a good part of the time of
    the average: make another one when they are replaced, as by `module.to(device)` or FSDP's `fully_shard`.

    Args:
        target: the module that is moved; float32 or wider, because steps of size `1 - momentum` are lost in bfloat16.
        source: the module that it follows.

    Raises:
        ValueError: modules of different architecture; adapters in the target, or others in the source than plain LoRA.

    Example:
        >>> target, source = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> average = Average(target, source)
        >>> average(0.996)  # a step
        >>> average(0.0)  # a copy
        >>> torch.equal(target.weight, source.weight)
        True
    """

    def __init__(self, target: nn.Module, source: nn.Module):
        tensors, source_tensors = (_named_tensors(module) for module in (target, source))
        if inside := adapted_names(tensors):
            raise ValueError(
                f"no average: the module that follows has adapters itself, at {len(inside)} tensors such as "
                f"{inside[0]}. Give them to the other one alone, or merge them"
            )
        adapted = adapted_weights(source) if adapted_names(source_tensors) else {}
        if adapted:
            source_tensors = without_adapters(source_tensors)
        if unlike := [name for name in tensors | source_tensors if not _alike(name, tensors, source_tensors)]:
            raise ValueError(f"no average: {len(unlike)} tensors are not in both modules, or unlike: {unlike[0]}")
        self.target, self.source = list(tensors.values()), [source_tensors[name] for name in tensors]
        dtypes, source_dtypes = ({tensor.dtype for tensor in tensors} for tensors in (self.target, self.source))
        self._too_coarse = bool(dtypes & {torch.bfloat16, torch.float16})
        self._same_dtypes = dtypes == source_dtypes
        self._partitioned = any(hasattr(tensor, "ds_tensor") for tensor in self.target)
        self._distributed = any(hasattr(tensor, "to_local") for tensor in self.target)
        # PyTorch's fused steps take one type, and walk through memory without looking at strides.
        self._fusible = len(dtypes | source_dtypes) == 1 and not (self._partitioned or self._distributed)
        self._fusible &= all(t.is_contiguous() for t in [*self.target, *self.source])
        self._fused = self._fusible and all(t.device.type == "cpu" for t in [*self.target, *self.source])
        # Apart from the others, one by one: their effective weights are made anew at every step.
        self._adapted = [(tensors[name], weight) for name, weight in adapted.items()]
        if adapted:
            plain = [name for name in tensors if name not in adapted]
            self.target, self.source = ([each[name] for name in plain] for each in (tensors, source_tensors))

    @torch.no_grad()
    def __call__(self, momentum: float, skip: torch.Tensor | None = None) -> None:
        """`target <- momentum * target + (1 - momentum) * source`

        Args:
            momentum: in [0, 1]; 0 copies.
            skip: 0-dim float tensor on the device: 1 leaves the target as it is, 0 does not. Nobody waits for it.

        Raises:
            ValueError: momentum outside [0, 1], or targets in a 16-bit type with a momentum above 0.
        """
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum {momentum} is outside [0, 1]")
        if momentum > 0 and self._too_coarse:
            raise ValueError(
                "the target encoder is stored in a 16-bit type, in which an average with a momentum near 1 does not "
                "move: keep the model in float32 (`dtype=torch.float32`) and train with autocast (`bf16=True`)"
            )
        target, source = self.target, self.source
        if self._partitioned or self._distributed:
            target, source = ([local_shard(tensor) for tensor in tensors] for tensors in (target, source))
        self._move(target, source, 1.0 - momentum, skip)
        if self._partitioned:
            for pair in zip(self.target, self.source, strict=True):
                self._move_gathered(*pair, 1.0 - momentum, skip)
        if self._adapted:
            self._move_adapted(1.0 - momentum, skip)

    def _move(
        self, target: list[torch.Tensor], source: list[torch.Tensor], weight: float, skip: torch.Tensor | None
    ) -> None:
        if skip is not None and (weight == 1.0 or not self._fusible):
            for t, s in zip(target, source, strict=True):
                t.copy_(torch.where(skip > 0, t, s.to(t.dtype) if weight == 1.0 else t.lerp(s.to(t.dtype), weight)))
            return
        if weight == 1.0:  # a true copy: interpolation would keep a NaN or infinity of the old value
            torch._foreach_copy_(target, source)
            return
        if not self._same_dtypes:  # float32 targets of a 16-bit model
            source = [s.to(t.dtype) for t, s in zip(target, source, strict=True)]
        if self._fused or skip is not None:
            # The average is a step of gradient descent on |target - source|^2 / 2, and the fused step spares setting
            # up an operation for every tensor. It takes `source + weight_decay * target` for the gradient, which is
            # ours with the sign turned round, and so the rate is negative.
            torch._fused_sgd_(target, source, [], lr=-weight, weight_decay=-1.0, found_inf=skip, **_PLAIN_SGD)
        else:
            torch._foreach_lerp_(target, source, weight)

    def _move_gathered(
        self,
        t: torch.Tensor,
        s: torch.Tensor,
        weight: float,
        skip: torch.Tensor | None,
        change: torch.Tensor | None = None,
    ) -> None:
        """Beside its shard of ZeRO-3, the whole parameter if that happens to be in this process as well."""
        if not is_gathered(t):
            return  # a table, or only the shard is alive, which is moved by itself
        if is_gathered(s):  # a small parameter that DeepSpeed keeps gathered: move the full copy too
            self._move([t.data], [s.data if change is None else s.data + change], weight, skip)
        else:
            t.partition()  # drop the stale gathered copy; the next forward gathers the new shards

    def _move_adapted(self, weight: float, skip: torch.Tensor | None) -> None:
        with whole_matrices(source for _, source in self._adapted):
            for target, source in self._adapted:
                change = source.change()
                self._move_gathered(target, source.base, weight, skip, change)
                self._move([local_shard(target)], [source.effective_shard(change, target.dtype)], weight, skip)


def _named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    module = getattr(module, "_orig_mod", module)  # of one that is compiled
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _alike(name: str, *tensors: dict[str, torch.Tensor]) -> bool:
    return all(name in named for named in tensors) and len({local_shard(named[name]).shape for named in tensors}) == 1


__all__ = ["Average", "local_shard"]
