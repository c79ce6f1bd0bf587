"""The exponential moving average that makes a target encoder, on whatever shards this process holds."""

import torch
from torch import nn


_PLAIN_SGD = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "maximize": False, "is_first_step": False}


class Average:
    """Moves one module towards another of the same architecture, in place and without communication.

    Its parameters move, and its fixed tables as well: those are equal in all normal runs, and then stay exactly as
    they are; in a checkpoint where they differ they are averaged as the official code does, which keeps them among the
    parameters.

    Works on plain parameters (one process, DDP, ZeRO-0 to 2), on ZeRO-3 shards and on FSDP2 DTensors: target and
    source have equal shapes, so every process holds the same cut of both.

    The tensors are collected once, because finding them in two modules takes a small model a good part of the time of
    the average: make another one when they are replaced, as by `module.to(device)` or FSDP's `fully_shard`.

    Args:
        target: the module that is moved; float32 or wider, because steps of size `1 - momentum` are lost in bfloat16.
        source: the module that it follows.

    Raises:
        ValueError: modules of different architecture.

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
            self._move_gathered(1.0 - momentum, skip)

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

    def _move_gathered(self, weight: float, skip: torch.Tensor | None) -> None:
        """After the shards of ZeRO-3, the whole parameters that happen to be in this process as well."""
        for t, s in zip(self.target, self.source, strict=True):
            if not hasattr(t, "ds_tensor") or t.data.numel() != t.ds_numel:
                continue  # a table, or only the shard is alive: it has just been moved
            if s.data.numel() == s.ds_numel:  # small parameters that DeepSpeed keeps gathered: move the full copy too
                self._move([t.data], [s.data], weight, skip)
            else:
                t.partition()  # drop the stale gathered copy; the next forward gathers the new shards


def _named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    module = getattr(module, "_orig_mod", module)  # of one that is compiled
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _alike(name: str, *tensors: dict[str, torch.Tensor]) -> bool:
    return all(name in named for named in tensors) and len({local_shard(named[name]).shape for named in tensors}) == 1


def local_shard(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that lies in this process."""
    if hasattr(tensor, "ds_tensor"):  # ZeRO-3
        return tensor.ds_tensor.data
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # a DTensor of FSDP2, or whole


__all__ = ["Average", "local_shard"]
