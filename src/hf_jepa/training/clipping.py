"""Clipping of gradients, of the encoder apart from all else."""

import torch
from torch import nn
from transformers import Trainer


class ClippingMixin:
    """A `Trainer` that may clip the gradients of the context encoder and of all else apart, each to `max_grad_norm`.

    With `clip_apart` at every step (EB-JEPA, 2602.03604; the official code), with `clip_after_warmup` only after the
    warm-up: the official V-JEPA code (`app/vjepa/train.py`) does so from the second epoch after its end on, here from
    its end on.

    Raises:
        ValueError: together with DeepSpeed or FSDP, which clip the gradients of the whole model themselves.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        chosen = [name for name in ("clip_apart", "clip_after_warmup") if getattr(self.args, name, False)]
        self._clips_apart, self._clips_late = bool(chosen), "clip_after_warmup" in chosen
        if chosen and (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            raise ValueError(f"{chosen[0]}: DeepSpeed and FSDP clip the whole model, leave it out")

    def _clip_grad_norm(self: Trainer, model: nn.Module):
        if not self._clips_apart:
            return super()._clip_grad_norm(model)
        norm = self._get_grad_norm(model)  # also takes the scale of float16 out of the gradients
        if not self._clips_late or self.state.global_step >= self.args.get_warmup_steps(self.state.max_steps):
            parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
            model = self.accelerator.unwrap_model(model)
            encoder = set(map(id, model.context_encoder.parameters()))
            for parameter in model.parameters():
                parts[id(parameter) in encoder].append(parameter)
            for parameters in parts.values():
                torch.nn.utils.clip_grad_norm_(parameters, self.args.max_grad_norm)
        return norm


__all__ = ["ClippingMixin"]
