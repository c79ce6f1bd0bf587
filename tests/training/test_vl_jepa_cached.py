"""Cached gradients: two passes over parts of a batch give the gradient of the batch as a whole."""

import pytest
import torch
from torch import nn

from hf_jepa.losses.infonce import infonce
from hf_jepa.training.cached_infonce import cache_gradients, cached_backward, surrogate


class Pairs(nn.Module):
    """Two encoders and the scale of their similarities."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(6, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 4))
        self.second = nn.Sequential(nn.Linear(6, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 4))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.first(rows[:, 0]), self.second(rows[:, 1])

    def loss(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """InfoNCE in both directions with a scale that learns, restated."""
        first, second = (nn.functional.normalize(x, dim=-1) for x in (first, second))
        logits = self.scale.exp() * first @ second.T
        right = torch.arange(len(logits))
        losses = [nn.functional.cross_entropy(each, right) for each in (logits, logits.T)]
        return sum(losses) / 2


def gradients(model: Pairs) -> dict[str, torch.Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def rows(count: int = 12) -> torch.Tensor:
    return torch.randn(count, 2, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sizes", [[12], [4, 4, 4], [5, 1, 6], [1] * 12])
def test_two_passes_give_the_gradient_of_the_whole_batch(sizes):
    model = Pairs()
    loss = model.loss(*model(rows()))
    loss.backward()
    expected = gradients(model)
    model.zero_grad()
    found_loss = cached_backward(model, rows().split(sizes), model.loss, [model.scale])
    found = gradients(model)
    assert not found_loss.requires_grad and found_loss.item() == pytest.approx(loss.item(), abs=1e-6)
    assert found.pop("unused") is None and expected.pop("unused") is None
    assert max(value.abs().max().item() for value in expected.values()) > 1e-2
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


def test_parts_for_themselves_have_another_gradient():
    """So that the test above says something: accumulated batches are not one."""
    model = Pairs()
    model.loss(*model(rows())).backward()
    expected = gradients(model)
    model.zero_grad()
    for part in rows().split(4):
        (model.loss(*model(part)) / 3).backward()
    assert (gradients(model)["first.0.weight"] - expected["first.0.weight"]).abs().max() > 1e-3


def test_both_passes_drop_out_the_same():
    model, seen = Pairs(dropout=0.5).train(), []

    def encode(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(model(part))
        return seen[-1]

    torch.manual_seed(7)
    cached_backward(encode, rows().split(4), model.loss, [model.scale])
    after = torch.get_rng_state()
    found = gradients(model)
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(*(model(rows(4))[0] for _ in range(2)))  # which draws anew each time

    torch.manual_seed(7)  # what the passes mean: one pass over the parts, with the graph of all
    model.zero_grad()
    embeddings = [model(part) for part in rows().split(4)]
    assert torch.equal(torch.get_rng_state(), after)  # random numbers went on as if there had been one pass
    model.loss(*(torch.cat(x) for x in zip(*embeddings, strict=True))).backward()
    for name, value in gradients(model).items():
        if value is not None:
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


def test_the_first_pass_keeps_no_graph_and_touches_no_gradient():
    model, graphs = Pairs(), []

    def encode(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        graphs.append(torch.is_grad_enabled())
        return model(part)

    cached = cache_gradients(encode, rows().split(4), model.loss, [model.scale, model.unused])
    assert graphs == [False] * 3 and all(value is None for value in gradients(model).values())
    assert [tuple(x.shape for x in part) for part in cached.embeddings] == [((4, 4), (4, 4))] * 3
    scale, unused = cached.parameters
    assert scale.abs() > 1e-3 and torch.equal(unused, torch.zeros(3))  # it plays no part
    assert not any(gradient.requires_grad for part in cached.embeddings for gradient in part)


def test_the_loss_of_the_package_is_cached_as_well():
    model = Pairs()
    infonce(*model(rows()), symmetric=True).mean().backward()
    expected = gradients(model)
    model.zero_grad()
    cached_backward(model, rows().split(3), lambda *found: infonce(*found, symmetric=True).mean())
    torch.testing.assert_close(gradients(model)["second.0.weight"], expected["second.0.weight"], rtol=0, atol=1e-6)


def test_sixteen_bit_embeddings_get_gradients_of_their_own_type():
    weight = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    surrogate([weight], [torch.full((2, 2), 0.5)]).backward()
    assert weight.grad.dtype == torch.bfloat16 and weight.grad.tolist() == [[0.5, 0.5]] * 2


def test_nothing_has_no_loss():
    with pytest.raises(ValueError, match="no parts"):
        cached_backward(Pairs(), [], Pairs().loss)
