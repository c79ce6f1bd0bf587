"""Large batches for losses that compare all rows, on few devices: the gradient is cached between two passes.

A contrastive loss has as many negatives as its batch has rows, and accumulating gradients of small batches adds none.
But what depends on the whole batch are the embeddings alone. So the encoders run twice over every part of a batch:
first without graph, for the embeddings of all parts, from which the loss and its gradient for every embedding follow;
then with the graph of one part at a time, through which those gradients flow on. The result is the gradient of the
whole batch, with the memory of one part (GradCache, 2101.06983, section 3).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from hf_jepa.training.nonfinite import random_state, restore_random_state


Embeddings = tuple[torch.Tensor, ...]


class CachedGradients(NamedTuple):
    """What the first pass found.

    Attributes:
        loss: scalar, of all parts together, without graph.
        embeddings: of every part its gradients, one for each tensor of embeddings.
        parameters: gradients of the parameters that the loss has of its own.
        random: of every part the state of random numbers that it was encoded with.
    """

    loss: torch.Tensor
    embeddings: list[Embeddings]
    parameters: list[torch.Tensor]
    random: list[dict[str, torch.Tensor]]


def cache_gradients(
    encode: Callable[[Any], Embeddings],
    parts: Sequence[Any],
    loss_of: Callable[..., torch.Tensor],
    parameters: Sequence[torch.Tensor] = (),
    device: torch.device | str = "cpu",
) -> CachedGradients:
    """First pass: the loss of all parts together, and its gradient for every embedding.

    Args:
        encode: gives the embeddings of a part, tensors (b, D) whose rows belong together; called without graph.
        parts: of a batch; they may have different numbers of rows.
        loss_of: called with the embeddings of all parts, each (B, D) in the order of the parts, gives a scalar. It may
            gather the rows of other processes (`hf_jepa.losses.distributed`); then all must call this function.
        parameters: tensors with gradient that `loss_of` uses itself, such as a temperature.
        device: whose random numbers the encoders draw.

    Returns:
        see `CachedGradients`; the gradients of tensors that play no part are zeros.

    Raises:
        ValueError: no parts.

    Example:
        >>> encoder = torch.nn.Linear(3, 2)
        >>> found = cache_gradients(lambda x: (encoder(x),), torch.ones(2, 4, 3), lambda y: y.square().mean())
        >>> [gradient.shape for (gradient,) in found.embeddings]
        [torch.Size([4, 2]), torch.Size([4, 2])]
    """
    if not len(parts):
        raise ValueError("a batch of no parts has no loss")
    random, encoded = [], []
    with torch.no_grad():
        for part in parts:
            random.append(random_state(torch.device(device)))
            encoded.append(tuple(encode(part)))
    leaves = [torch.cat(rows).requires_grad_() for rows in zip(*encoded, strict=True)]
    with torch.enable_grad():
        loss = loss_of(*leaves)
    wanted = [*leaves, *parameters]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)]
    sizes = [len(rows[0]) for rows in encoded]
    by_part = list(zip(*(gradient.split(sizes) for gradient in gradients[: len(leaves)]), strict=True))
    return CachedGradients(loss.detach(), by_part, gradients[len(leaves) :], random)


def surrogate(
    embeddings: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    parameters: Sequence[torch.Tensor] = (),
    parameter_gradients: Sequence[torch.Tensor] = (),
) -> torch.Tensor:
    """A scalar through which cached gradients flow into what made these embeddings; its value means nothing.

    Args:
        embeddings: of a part, with graph.
        gradients: of the loss for them, see `cache_gradients`.
        parameters, parameter_gradients: those of the loss itself, of which every part passes on its share.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> surrogate([3 * weight], [torch.tensor([1.0, 2.0])]).backward()
        >>> weight.grad
        tensor([3., 6.])
    """
    pairs = [*zip(embeddings, gradients, strict=True), *zip(parameters, parameter_gradients, strict=True)]
    return sum((x * gradient.to(x.dtype)).sum() for x, gradient in pairs)


def cached_backward(
    encode: Callable[[Any], Embeddings],
    parts: Sequence[Any],
    loss_of: Callable[..., torch.Tensor],
    parameters: Sequence[torch.Tensor] = (),
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Both passes: adds the gradient of the loss of the whole batch to `.grad`, as `loss.backward()` would.

    The second pass encodes every part with the random numbers (dropout) of the first.

    Args:
        encode, parts, loss_of, parameters, device: see `cache_gradients`.

    Returns:
        the loss, without graph.

    Example:
        >>> from hf_jepa.losses.infonce import infonce
        >>> encoder, pairs = torch.nn.Linear(3, 2), torch.randn(6, 2, 3)
        >>> encode = lambda part: tuple(encoder(part).unbind(1))
        >>> loss = cached_backward(encode, pairs.split(2), lambda *rows: infonce(*rows).mean())
        >>> found = encoder.weight.grad.clone()
        >>> encoder.zero_grad()
        >>> infonce(*encode(pairs)).mean().backward()
        >>> torch.allclose(found, encoder.weight.grad, atol=1e-6)
        True
    """
    cached = cache_gradients(encode, parts, loss_of, parameters, device)
    shares = [gradient / len(parts) for gradient in cached.parameters]
    for part, gradients, random in zip(parts, cached.embeddings, cached.random, strict=True):
        restore_random_state(random)
        surrogate(encode(part), gradients, parameters, shares).backward()
    return cached.loss


__all__ = ["CachedGradients", "cache_gradients", "cached_backward", "surrogate"]
