"""Clipping of gradients as in the official training of V-JEPA."""

import torch
from torch import nn
from transformers import Trainer


class ClippingMixin:
    """A `Trainer` that, with `clip_after_warmup`, clips the gradients of context encoder and predictor apart.

    The official V-JEPA code (`app/vjepa/train.py`) clips each of the two to `max_grad_norm`, and only after the
    warm-up: there from the second epoch after its end on, here from its end on.

    Raises:
        ValueError: together with DeepSpeed or FSDP, which clip the gradients of the whole model themselves.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.clip_after_warmup and (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            raise ValueError("clip_after_warmup: DeepSpeed and FSDP clip the whole model, leave it out")

    def _clip_grad_norm(self: Trainer, model: nn.Module):
        if not self.args.clip_after_warmup:
            return super()._clip_grad_norm(model)
        norm = self._get_grad_norm(model)  # also takes the scale of float16 out of the gradients
        if self.state.global_step >= self.args.get_warmup_steps(self.state.max_steps):
            parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
            model = self.accelerator.unwrap_model(model)
            encoder = set(map(id, model.context_encoder.parameters()))
            for parameter in model.parameters():
                parts[id(parameter) in encoder].append(parameter)
            for parameters in parts.values():
                torch.nn.utils.clip_grad_norm_(parameters, self.args.max_grad_norm)
        return norm


__all__ = ["ClippingMixin"]
