"""Pretraining steps beside the same steps written down plainly."""

from collections.abc import Callable

import torch
from torch import nn


def compare_with_plain_step(model: nn.Module, batch: dict, plain_step: Callable) -> None:
    """Loss, predictions, targets and gradients; `plain_step(parameters, batch)` gives the first three."""
    parameters = dict(model.named_parameters())
    loss, predictions, targets = plain_step(parameters, batch)
    out = model(**batch)
    torch.testing.assert_close(out.predictions, predictions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.targets, targets, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.loss, loss, rtol=1e-5, atol=1e-5)
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
    assert not any(name.startswith("teacher.") for name in trained)
    expected = torch.autograd.grad(loss, [parameters[name] for name in trained])
    out.loss.backward()
    for name, gradient in zip(trained, expected, strict=True):
        torch.testing.assert_close(parameters[name].grad, gradient, rtol=1e-4, atol=1e-5, msg=name)
