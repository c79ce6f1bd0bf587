"""Which kernels multiply the matrices of a run on a CPU."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from transformers import Trainer

from hf_jepa.layers.onednn import onednn_pays_off, using_onednn


@dataclass
class KernelArguments:
    """The part of a run's arguments that `KernelMixin` reads."""

    onednn: bool | None = field(
        default=None,
        metadata={"help": "CPU: linear layers by oneDNN (use_onednn) while training; default: where it is faster."},
    )


class KernelMixin:
    """A `Trainer` whose linear layers compute by oneDNN while it trains on a CPU, see `use_onednn`.

    Before and after `train` the model is as it was, so its outputs are those of its checkpoint in stock transformers
    to the last bit. Left out under DeepSpeed and FSDP, which handle weights in their own way.
    """

    def train(self: Trainer, *args: Any, **kwargs: Any):
        wanted = onednn_pays_off() if self.args.onednn is None else self.args.onednn
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        with using_onednn(self.model) if wanted and self.args.device.type == "cpu" and not sharded else nullcontext():
            return super().train(*args, **kwargs)


__all__ = ["KernelArguments", "KernelMixin"]
