"""What a process holds of a tensor: all of it, a shard of ZeRO-3 or one of FSDP2."""

import torch


def local_shard(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that lies in this process."""
    if hasattr(tensor, "ds_tensor"):  # ZeRO-3
        return tensor.ds_tensor.data
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # a DTensor of FSDP2, or whole


def is_gathered(tensor: torch.Tensor) -> bool:
    """Whether ZeRO-3 keeps the whole tensor in this process as well, beside its shard."""
    return hasattr(tensor, "ds_tensor") and tensor.data.numel() == tensor.ds_numel


def shard_like(tensor: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """The part of another tensor of the same shape that belongs to the shard of this one.

    Args:
        tensor: that may be cut up.
        whole: of its whole shape; for a DTensor itself one, cut in whatever way.

    Returns:
        of the shape of `local_shard(tensor)`, and where that is.

    Example:
        >>> weight = torch.zeros(2, 3)
        >>> shard_like(weight, torch.ones(2, 3)).shape == local_shard(weight).shape
        True
    """
    if hasattr(tensor, "ds_tensor"):  # cut from the flat tensor, which is filled up to equal shards
        shard = tensor.ds_tensor.data
        start = min(tensor.ds_zero_partition_rank * shard.numel(), whole.numel())
        part = whole.flatten()[start : start + shard.numel()].to(shard.device)
        return torch.nn.functional.pad(part, (0, shard.numel() - part.numel()))
    if hasattr(tensor, "to_local"):
        return whole.redistribute(tensor.device_mesh, tensor.placements).to_local()
    return whole


__all__ = ["is_gathered", "local_shard", "shard_like"]
