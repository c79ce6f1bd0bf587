"""The ridge probe is the least squares solution, whatever the shape of the features, and chooses its weight decay."""

import numpy as np
import pytest
import torch

from hf_jepa.evaluation.ridge import r2_scores, ridge_probe


def rows(count, dims, numbers=2, noise=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dims, generator=generator) * 3 + 5
    truth = torch.randn(dims, numbers, generator=torch.Generator().manual_seed(9))
    return x, x @ truth + noise * torch.randn(count, numbers, generator=generator) - 4


@pytest.mark.parametrize("count, dims", [(60, 7), (20, 50)])
def test_agrees_with_lstsq_on_augmented_rows(count, dims):
    (x, y), (test_x, _) = rows(count, dims, noise=1.0), rows(10, dims, seed=1)
    result = ridge_probe(x, y, test_x, weight_decays=(0.3,))
    x, y = x.double().numpy(), y.double().numpy()
    centred = x - x.mean(axis=0)
    penalty = np.sqrt(0.3 * count * centred.var(axis=0).mean()) * np.eye(dims)
    augmented = np.concatenate([centred, penalty])
    weight = np.linalg.lstsq(augmented, np.concatenate([y - y.mean(axis=0), np.zeros((dims, 2))]), rcond=None)[0]
    np.testing.assert_allclose(result.weight.T.numpy(), weight, atol=1e-9)
    predictions = (test_x.double().numpy() - x.mean(axis=0)) @ weight + y.mean(axis=0)
    np.testing.assert_allclose(result.predictions.numpy(), predictions, atol=1e-8)
    assert result.r2 is None and result.held_out == {}


def test_the_scale_and_the_origin_of_features_do_not_matter():
    (x, y), (test_x, test_y) = rows(80, 6, noise=1.0), rows(40, 6, noise=1.0, seed=1)
    one = ridge_probe(x, y, test_x, test_y)
    other = ridge_probe(1000 * x - 7, y, 1000 * test_x - 7, test_y)
    assert one.weight_decay == other.weight_decay
    torch.testing.assert_close(one.predictions, other.predictions, rtol=1e-4, atol=1e-4)


def test_chooses_much_decay_for_noise_and_little_for_clean_rows():
    clean, noisy = (ridge_probe(*rows(60, 40, noise=noise), *rows(60, 40, noise=noise, seed=1)) for noise in (0, 200))
    assert clean.weight_decay == min(clean.held_out) and clean.r2 > 0.99
    assert noisy.weight_decay > 10 * clean.weight_decay
    assert max(noisy.held_out, key=noisy.held_out.get) == noisy.weight_decay


def test_another_score_chooses_another_weight_decay():
    (x, y), (test_x, _) = rows(60, 10), rows(5, 10, seed=1)
    result = ridge_probe(x, y, test_x, score=lambda found, numbers: -found.var(dim=0).sum().item())
    assert result.weight_decay == max(result.held_out)  # the flattest predictions


def test_r2_is_one_zero_or_negative():
    wanted = torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=torch.float64)
    assert r2_scores(wanted, wanted).tolist() == [1.0, 1.0]
    assert r2_scores(torch.tensor([[1.0, 3.0], [1.0, 1.0]]).double(), wanted).tolist() == [0.0, -3.0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train_y": torch.zeros(9, 2)}, "9 rows: expected one for each of 10"),
        ({"test_x": torch.zeros(4, 3)}, "dimensions"),
        ({"test_y": torch.ones(4, 2)}, "same number in all 4 rows"),
        ({"weight_decays": (0.0,)}, "positive"),
        ({"held_out_fraction": 0.01}, "too few rows"),
        ({"train_x": torch.full((10, 5), torch.nan)}, "NaN"),
    ],
)
def test_refuses_what_cannot_be_fitted(change, message):
    (x, y), (test_x, test_y) = rows(10, 5), rows(4, 5, seed=1)
    arguments = {"train_x": x, "train_y": y, "test_x": test_x, "test_y": test_y} | change
    with pytest.raises(ValueError, match=message):
        ridge_probe(**arguments)
