"""A step of data2vec beside the same step written plainly."""

import torch
from torch.nn import functional


def layer_norm(x, state=None, name=None):
    weight, bias = (None, None) if name is None else (state[f"{name}.weight"], state[f"{name}.bias"])
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-5)


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def check_step(model, batch, plain_step):
    """Outputs, loss and gradients are those of `plain_step(parameters, batch)` -> loss, predictions, targets."""
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
