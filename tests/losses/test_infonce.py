import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_jepa.losses.infonce import infonce


torch.manual_seed(0)
QUERIES, KEYS = torch.randn(2, 5, 8)


def restated(queries: torch.Tensor, keys: torch.Tensor, temperature: float) -> list[float]:
    """Row by row: minus the logarithm of the share that the partner has of the exponentials."""
    losses = []
    for i, query in enumerate(queries):
        scores = [float(query @ key) / float(query.norm() * key.norm()) / temperature for key in keys]
        losses.append(math.log(sum(math.exp(score) for score in scores)) - scores[i])
    return losses


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_formula(temperature):
    one, other = restated(QUERIES, KEYS, temperature), restated(KEYS, QUERIES, temperature)
    torch.testing.assert_close(infonce(QUERIES, KEYS, temperature), torch.tensor(one), rtol=1e-5, atol=1e-5)
    both = (torch.tensor(one) + torch.tensor(other)) / 2
    torch.testing.assert_close(infonce(QUERIES, KEYS, temperature, symmetric=True), both, rtol=1e-5, atol=1e-5)
    assert (infonce(QUERIES, KEYS, temperature) - infonce(KEYS, QUERIES, temperature)).abs().max() > 0.1


def test_lengths_do_not_count_and_both_sides_get_gradients():
    queries, keys = QUERIES.clone().requires_grad_(), KEYS.clone().requires_grad_()
    loss = infonce(queries, keys)
    torch.testing.assert_close(infonce(3 * queries, keys / 7), loss)
    loss.mean().backward()
    assert queries.grad.any() and keys.grad.any()


def test_sixteen_bits_are_computed_in_thirty_two():
    found = infonce(QUERIES.bfloat16(), KEYS.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, infonce(QUERIES.bfloat16().float(), KEYS.bfloat16().float()))
    assert infonce(QUERIES.double(), KEYS.double()).dtype == torch.float64


def test_autocast_computes_no_similarity_in_sixteen_bits():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = infonce(QUERIES, KEYS)
    torch.testing.assert_close(found, infonce(QUERIES, KEYS), rtol=1e-5, atol=1e-5)


def test_a_row_alone_has_no_negatives():
    assert infonce(QUERIES[:1], KEYS[:1]).item() == 0
    assert infonce(QUERIES[:0], KEYS[:0]).shape == (0,)


def test_gathering_in_one_process_changes_nothing():
    assert torch.equal(infonce(QUERIES, KEYS, gather=True), infonce(QUERIES, KEYS))


def test_a_learnt_scale_is_one_over_the_temperature():
    scale = torch.tensor([math.log(1 / 0.3)], requires_grad=True)
    found = infonce(QUERIES, KEYS, symmetric=True, logit_scale=scale)
    torch.testing.assert_close(found, infonce(QUERIES, KEYS, 0.3, symmetric=True))
    found.mean().backward()
    step = 1e-2
    other = [infonce(QUERIES, KEYS, 0.3 * math.exp(x), symmetric=True).mean().item() for x in (step, -step)]
    assert scale.grad.item() == pytest.approx((other[1] - other[0]) / (2 * step), rel=1e-3)
    half = infonce(QUERIES, KEYS, logit_scale=scale.detach().bfloat16())
    assert half.dtype == torch.float32


def test_rows_of_a_group_are_no_negatives_of_one_another():
    groups = torch.tensor([7, -1, 7, 3, 7])
    for one, other, symmetric in ((QUERIES, KEYS, False), (KEYS, QUERIES, False), (QUERIES, KEYS, True)):
        expected = []
        for row in range(5):
            kept = [i for i in range(5) if i == row or groups[i] != groups[row]]
            found = restated(one[kept], other[kept], 0.07)[kept.index(row)]
            if symmetric:
                found = (found + restated(other[kept], one[kept], 0.07)[kept.index(row)]) / 2
            expected.append(found)
        found = infonce(one, other, symmetric=symmetric, groups=groups)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(infonce(QUERIES, KEYS, groups=torch.arange(5)), infonce(QUERIES, KEYS))
    rows = QUERIES.clone().requires_grad_()
    infonce(rows, KEYS, groups=torch.zeros(5, dtype=torch.long)).sum().backward()
    assert not rows.grad.any() and rows.grad.isfinite().all()  # nothing is left to tell apart


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logit_scale": torch.zeros(2)}, r"logit_scale has shape \(2,\), expected one number"),
        ({"groups": torch.zeros(4)}, r"groups has shape \(4,\), expected one number for each of 5 rows"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        infonce(QUERIES, KEYS, **options)


def test_two_processes_equal_one():
    script = Path(__file__).with_name("infonce_processes.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("queries", "keys", "temperature", "message"),
    [
        (QUERIES, KEYS[:3], 0.07, r"\(5, 8\) and keys \(3, 8\) must both be \(B, D\)"),
        (QUERIES[0], KEYS[0], 0.07, r"must both be \(B, D\)"),
        (QUERIES, KEYS, 0.0, "temperature must be above 0, got 0.0"),
    ],
)
def test_bad_arguments_are_refused(queries, keys, temperature, message):
    with pytest.raises(ValueError, match=message):
        infonce(queries, keys, temperature)
