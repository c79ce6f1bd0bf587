import pytest
import torch

from hf_jepa.losses.infonce import infonce
from hf_jepa.losses.pair_distance import DISTANCES, pair_distance


torch.manual_seed(0)
TEXT, CODE = torch.randn(2, 4, 6)


def test_the_formulas():
    expected = {
        "cosine": [1 - (t @ c) / (t.norm() * c.norm()) for t, c in zip(TEXT, CODE, strict=True)],
        "l2": [((t - c) ** 2).sum() ** 0.5 for t, c in zip(TEXT, CODE, strict=True)],
        "mse": [((t - c) ** 2).sum() / 6 for t, c in zip(TEXT, CODE, strict=True)],
        "infonce": list(infonce(TEXT, CODE, 0.2, symmetric=True)),
    }
    assert set(expected) == set(DISTANCES)
    for distance, values in expected.items():
        found = pair_distance(TEXT, CODE, distance, temperature=0.2, symmetric=True)
        torch.testing.assert_close(found, torch.stack(values))


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_of_both_are_finite_also_where_they_are_equal_or_zero(distance):
    text = TEXT.clone().requires_grad_()
    code = TEXT.clone()
    code[0] = 0
    code.requires_grad_()
    pair_distance(text, code, distance).mean().backward()
    assert text.grad.isfinite().all() and code.grad.isfinite().all() and text.grad.any() and code.grad.any()


@pytest.mark.parametrize("distance", DISTANCES)
def test_sixteen_bits_are_computed_in_thirty_two(distance):
    text, code = TEXT.bfloat16(), CODE.bfloat16()
    found = pair_distance(text, code, distance)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, pair_distance(text.float(), code.float(), distance))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="distance 'l1' is not one of cosine, l2, mse, infonce"):
        pair_distance(TEXT, CODE, "l1")
    for distance in DISTANCES:
        with pytest.raises(ValueError, match=r"\(4, 6\) and code \(1, 6\) must both be"):
            pair_distance(TEXT, CODE[:1], distance)
