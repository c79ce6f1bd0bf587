"""The linear probe: right where a line separates, at the optimum, deterministic, honest about its choice."""

import logging

import pytest
import torch

from hf_jepa.evaluation.linear import _held_out_mask, linear_probe


def separable(rows, seed, classes=7, dim=20, noise=0.6):
    g = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(classes, dim, generator=torch.Generator().manual_seed(99)) / dim**0.5
    labels = torch.arange(rows) % classes
    x = centres[labels] + noise * torch.randn(rows, dim, generator=g) / dim**0.5
    scale = torch.logspace(-3, 3, dim)  # columns of very different size, and off centre
    return (x + 5) * scale, labels


def noisy(rows, seed, dim=30, classes=4):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(dim, classes, generator=torch.Generator().manual_seed(7))
    x = torch.randn(rows, dim, generator=g)
    return x, (x @ weight + 4 * torch.randn(rows, classes, generator=g)).argmax(1)


def test_separable_data_and_result():
    train_x, train_y = separable(280, 0)
    test_x, test_y = separable(210, 1)
    result = linear_probe(train_x, train_y + 40, test_x, test_y + 40)
    assert result.accuracy > 0.95
    assert result.accuracy == (result.predictions == test_y + 40).double().mean().item()
    assert result.accuracy <= result.top5 <= 1
    assert result.classes.tolist() == list(range(40, 47))
    logits = test_x.double() @ result.weight.T + result.bias  # weights act on features as they came
    assert torch.equal(result.classes[logits.argmax(1)], result.predictions)
    assert str(result).startswith(
        f"accuracy {result.accuracy:.4f}, top-5 {result.top5:.4f} on 210 rows (weight decay "
    )


def test_is_deterministic_and_keeps_its_inputs():
    train_x, train_y = noisy(200, 0)
    before = train_x.clone()
    a, b = (linear_probe(train_x, train_y, *noisy(100, 1), weight_decays=(1e-2, 1e-1)) for _ in range(2))
    assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias) and a.held_out == b.held_out
    assert torch.equal(train_x, before)


def test_stops_at_the_optimum():
    train_x, train_y = noisy(300, 0)
    decay = 1e-2
    result = linear_probe(train_x, train_y, train_x, weight_decays=(decay,))
    x = train_x.double()
    std = x.std(0, correction=0)
    weight = (result.weight * std).requires_grad_()  # back to standardised columns, where the penalty acts
    bias = (result.bias + result.weight @ x.mean(0)).requires_grad_()
    logits = (x - x.mean(0)) / std @ weight.T + bias
    (torch.nn.functional.cross_entropy(logits, train_y) + decay / 2 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-5 and bias.grad.abs().max() < 1e-5


def test_weight_decay_is_chosen_by_held_out_rows():
    train_x, train_y = noisy(80, 0)  # few rows, much noise: the weakest decay overfits
    test_x, test_y = noisy(2000, 1)
    grid = (1e-5, 1e-3, 1e-1)
    chosen = linear_probe(train_x, train_y, test_x, test_y, weight_decays=grid)
    assert set(chosen.held_out) == set(grid)
    assert chosen.held_out[chosen.weight_decay] == max(chosen.held_out.values())
    weakest = linear_probe(train_x, train_y, test_x, test_y, weight_decays=(1e-5,))
    assert weakest.held_out == {} and weakest.weight_decay == 1e-5
    assert chosen.weight_decay == 1e-1 and chosen.accuracy > weakest.accuracy


def test_held_out_rows_are_scored_with_the_bias():
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    y = (torch.arange(200) % 10 == 0).long()  # nothing but the sizes of the classes can be learnt
    result = linear_probe(x, y, x, weight_decays=(0.1, 1.0))
    assert result.held_out == {0.1: pytest.approx(0.9, abs=0.05), 1.0: pytest.approx(0.9, abs=0.05)}


@pytest.mark.parametrize("grid", [(1e-4, 1e-2, 1.0), (1.0, 1e-2, 1e-4)])
def test_of_equally_accurate_weight_decays_the_one_of_the_lowest_loss_is_chosen(grid):
    x, y = separable(140, 0, noise=0.05)  # the weaker the decay, the surer the right answers
    result = linear_probe(x, y, x, weight_decays=grid)
    assert set(result.held_out.values()) == {1.0} and result.weight_decay == 1e-4


def test_the_seed_chooses_the_held_out_rows():
    y = torch.arange(40) % 4
    assert torch.equal(_held_out_mask(y, 0.2, 0), _held_out_mask(y, 0.2, 0))
    assert not torch.equal(_held_out_mask(y, 0.2, 0), _held_out_mask(y, 0.2, 1))


def test_same_as_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    train_x, train_y = noisy(300, 0)
    test_x, test_y = noisy(500, 1)
    decay = 1e-2
    ours = linear_probe(train_x, train_y, test_x, test_y, weight_decays=(decay,))
    mean, std = train_x.double().mean(0), train_x.double().std(0, correction=0)
    model = linear_model.LogisticRegression(C=1 / (300 * decay), max_iter=2000, tol=1e-8)
    model.fit(((train_x - mean) / std).numpy(), train_y.numpy())
    theirs = torch.from_numpy(model.predict(((test_x - mean) / std).numpy()))
    assert torch.equal(ours.predictions, theirs)
    assert ours.accuracy == pytest.approx((theirs == test_y).double().mean().item())
    assert 0.3 < ours.accuracy < 0.95
    folded = ours.weight * std
    assert torch.allclose(folded - folded.mean(0), torch.from_numpy(model.coef_), atol=1e-4)


def test_works_on_inference_tensors_and_inside_no_grad():
    with torch.inference_mode():
        train_x, train_y = noisy(60, 0)
        inside = linear_probe(train_x.double(), train_y, train_x, train_y, weight_decays=(1e-2,))
    outside = linear_probe(train_x.double(), train_y, train_x, train_y, weight_decays=(1e-2,))
    with torch.no_grad():
        again = linear_probe(train_x.double(), train_y, train_x, train_y, weight_decays=(1e-2,))
    assert inside.accuracy == outside.accuracy == again.accuracy > 0.5


def test_constant_column_is_ignored():
    x, y = noisy(200, 0)
    constant = torch.cat([x, torch.full((200, 1), 1e4)], dim=1)
    a = linear_probe(x, y, x, y, weight_decays=(1e-2,))
    b = linear_probe(constant, y, constant, y, weight_decays=(1e-2,))
    assert torch.equal(a.predictions, b.predictions)
    assert torch.allclose(a.weight, b.weight[:, :-1], atol=1e-6)


def test_a_class_of_one_row_stays_in_the_fit():
    x, y = separable(50, 0, classes=5)
    x, y = torch.cat([x, x[:1] * 3]), torch.cat([y, torch.tensor([9])])
    assert 9 in linear_probe(x, y, x, y, weight_decays=(1e-4, 1e-3)).predictions
    assert 9 in linear_probe(x, y, x, y, weight_decays=(1e-4, 1e-3), held_out_fraction=0.99).predictions
    # With all rows of a class held out, its numbers would shift in the fit: the last row of each always stays.
    held = _held_out_mask(torch.tensor([0, 0, 1, 2, 2, 2]), 0.99, seed=0)
    assert held.sum() == 3 and not held[2] and not held[:2].all() and not held[3:].all()
    one_shot_x, one_shot_y = separable(7, 0)
    with pytest.raises(ValueError, match=r"of 7 training rows leaves none.*weight_decays=\(1e-2,\)"):
        linear_probe(one_shot_x, one_shot_y, x)
    assert linear_probe(one_shot_x, one_shot_y, *separable(70, 1), weight_decays=(1e-2,)).accuracy > 0.8


def test_says_when_it_did_not_converge(caplog):
    x, y = noisy(200, 0)
    with caplog.at_level(logging.WARNING):
        linear_probe(x, y, x, weight_decays=(1e-5,), max_iterations=2)
    assert "not at its optimum after 2 iterations" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        linear_probe(x, y, x, weight_decays=(1e-5,))
    assert not caplog.text


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_features_does_not_matter(scale):
    x, y = noisy(80, 0)
    expected = linear_probe(x, y, x).predictions
    assert torch.equal(linear_probe(x.double() * scale, y, x.double() * scale).predictions, expected)


def test_refuses_what_cannot_be_fitted():
    x, y = noisy(40, 0)
    with pytest.raises(ValueError, match="positive numbers, got .nan"):
        linear_probe(x, y, x, weight_decays=(float("nan"),))
    with pytest.raises(ValueError, match="max_iterations is 0: it must be at least 1"):
        linear_probe(x, y, x, max_iterations=0)
    with pytest.raises(ValueError, match="all 40 training rows have label 3"):
        linear_probe(x, torch.full((40,), 3), x)
    with pytest.raises(ValueError, match=r"test labels \[8\] do not occur"):
        linear_probe(x, y, x[:1], torch.tensor([8]))
    with pytest.raises(ValueError, match="positive numbers, got"):
        linear_probe(x, y, x, weight_decays=(0.0, 1.0))
    with pytest.raises(ValueError, match="held_out_fraction is 1.5"):
        linear_probe(x, y, x, held_out_fraction=1.5)
    x[3, 2] = float("nan")
    with pytest.raises(ValueError, match="train_x has 1 values that are NaN"):
        linear_probe(x, y, x)
