"""Which kernels multiply the matrices of a run on a CPU."""

from dataclasses import dataclass, field
from typing import Any

from transformers import Trainer

from hf_jepa.layers.onednn import onednn_pays_off, use_onednn


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
        model, wanted = self.model, self.args.onednn
        if wanted is None:
            wanted = onednn_pays_off()
        if not wanted or self.args.device.type != "cpu" or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return super().train(*args, **kwargs)
        use_onednn(model)
        try:
            return super().train(*args, **kwargs)
        finally:
            use_onednn(model, False)


__all__ = ["KernelArguments", "KernelMixin"]
