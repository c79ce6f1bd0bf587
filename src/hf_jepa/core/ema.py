"""The exponential moving average that makes a target encoder, on whatever shards this process holds."""

import torch


class Average:
    """Moves one module towards another of the same architecture: its parameters, and its fixed tables as well.

    Tables are equal in all normal runs, and then stay exactly as they are; in a checkpoint where they differ they are
    averaged as the official code does, which keeps them among the parameters.

    It holds the tensors themselves, because finding them in two modules takes a small model a third of the time of the
    average: make another one when they are replaced, as by `module.to(device)` or FSDP's `fully_shard`.

    Args:
        target: the module that is moved.
        source: the module that it follows.
    """

    def __init__(self, target: torch.nn.Module, source: torch.nn.Module):
        self.parameters = list(target.parameters()), list(source.parameters())
        self.buffers = list(target.buffers()), list(source.buffers())

    def __call__(self, momentum: float) -> None:
        """`target <- momentum * target + (1 - momentum) * source`; momentum in [0, 1], see `ema_update_`."""
        ema_update_(*self.parameters, momentum)
        ema_update_(*self.buffers, momentum)


@torch.no_grad()
def ema_update_(target: list[torch.Tensor], source: list[torch.Tensor], momentum: float) -> None:
    """`target <- momentum * target + (1 - momentum) * source`, in place, without communication.

    Works on plain parameters (one process, DDP, ZeRO-0 to 2), on ZeRO-3 shards and on FSDP2 DTensors: target and
    source have equal shapes, so every process holds the same cut of both.

    Args:
        target: tensors to move; float32 or wider, because steps of size `1 - momentum` are lost in bfloat16.
        source: tensors to follow, in the same order.
        momentum: in [0, 1]; 0 copies.

    Raises:
        ValueError: momentum outside [0, 1], or targets in a 16-bit type with a momentum above 0.
    """
    if not 0.0 <= momentum <= 1.0:
        raise ValueError(f"momentum {momentum} is outside [0, 1]")
    if not target:
        return
    if momentum > 0 and {p.dtype for p in target} & {torch.bfloat16, torch.float16}:
        raise ValueError(
            "the target encoder is stored in a 16-bit type, in which an average with a momentum near 1 does not move: "
            "keep the model in float32 (`dtype=torch.float32`) and train with autocast (`bf16=True`)"
        )
    if hasattr(target[0], "ds_tensor"):
        _update_zero3_shards(target, source, 1.0 - momentum)
        return
    if hasattr(target[0], "to_local"):  # DTensor: the part of each that lies in this process
        target, source = ([p.to_local() for p in tensors] for tensors in (target, source))
    _lerp_(target, source, 1.0 - momentum)


def _lerp_(target: list[torch.Tensor], source: list[torch.Tensor], weight: float) -> None:
    if weight == 1.0:  # exact copy: lerp's rounding would leave a bit of the old value
        torch._foreach_copy_(target, source)
        return
    if {t.dtype for t in target} != {s.dtype for s in source}:  # float32 targets of a 16-bit model
        source = [s.to(t.dtype) for t, s in zip(target, source, strict=True)]
    torch._foreach_lerp_(target, source, weight)


def _update_zero3_shards(target: list, source: list, weight: float) -> None:
    _lerp_([p.ds_tensor.data for p in target], [p.ds_tensor.data for p in source], weight)
    for t, s in zip(target, source, strict=True):
        if t.data.numel() != t.ds_numel:
            continue  # only the shard is alive, and it has just been moved
        if s.data.numel() == s.ds_numel:  # small parameters that DeepSpeed keeps gathered: move the full copy too
            _lerp_([t.data], [s.data], weight)
        else:
            t.partition()  # drop the stale gathered copy; the next forward gathers the new shards


__all__ = ["Average", "ema_update_"]
