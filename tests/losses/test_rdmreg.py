"""RDMReg: its distribution beside closed forms and samples, its distance beside recorded values."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.losses import rdmreg as module
from hf_jepa.losses.rdmreg import RectifiedGeneralizedGaussian, l0_metric, l1_metric, rdmreg, sliced_wasserstein


GOLDEN = Path(__file__).parents[1] / "fixtures/golden/regularizers"
CASES = ("rdmreg_p1", "rdmreg_p0.5_mu0.5", "rdmreg_p2_mu-1_rgn")
SVD = "torch_svd_and_random"


def test_closed_forms():
    for row in json.loads((GOLDEN / "rgg_closed_forms/config.json").read_text(encoding="utf-8")):
        found = RectifiedGeneralizedGaussian(row["p"], row["mu"], row["mode"])
        expected = [row[name] for name in ("sigma", "mean", "var", "prob_active")]
        assert [found.sigma, found.mean, found.variance, found.prob_active] == pytest.approx(expected, rel=1e-8), row


@pytest.mark.parametrize("mode", ["sigma_GN", "sigma_RGN"])
@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.5])
def test_mu_for_a_sparsity(p, mode):
    for asked in (0.01, 0.5, 0.9):
        found = RectifiedGeneralizedGaussian.with_prob_active(asked, p, mode)
        assert found.prob_active == pytest.approx(asked, rel=1e-9) and found.sigma_mode == mode
        if mode == "sigma_RGN":
            assert found.variance == pytest.approx(1.0, rel=1e-9)


def test_probability_far_below_zero_keeps_its_digits():
    found = RectifiedGeneralizedGaussian(p=2.0, mu=-8.0).prob_active
    assert found == pytest.approx(math.erfc(8 / math.sqrt(2)) / 2, rel=1e-9) and found < 1e-14


@pytest.mark.parametrize(("p", "mu"), [(0.5, 0.3), (1.0, -0.5), (2.0, 0.5), (4.0, 0.0)])
def test_samples(p, mu):
    target = RectifiedGeneralizedGaussian(p, mu)
    samples = target.sample((100, 1000), torch.Generator().manual_seed(0)).double()
    assert samples.min() == 0
    assert samples.mean().item() == pytest.approx(target.mean, rel=0.02)
    assert samples.var().item() == pytest.approx(target.variance, rel=0.05)
    assert samples.gt(0).double().mean().item() == pytest.approx(target.prob_active, abs=0.006)


@pytest.mark.parametrize("case", CASES)
def test_recorded_distance_and_gradient(case, monkeypatch):
    io = load_file(GOLDEN / case / "io.safetensors")
    monkeypatch.setattr(module, "_CHUNK_SLICES", 7)
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 1)
    first, second = io["z1"].requires_grad_(), io["z2"]
    distances = [
        sliced_wasserstein(z, io[f"target_view{view}"], io["projections"]) for view, z in ((1, first), (2, second))
    ]
    torch.testing.assert_close(distances[0], io["rdmreg_view1"].squeeze(), rtol=1e-5, atol=1e-5)
    regularizer, invariance = (distances[0] + distances[1]) / 2, (first - second).square().mean()
    torch.testing.assert_close(regularizer, io["rdmreg"].squeeze(), rtol=1e-5, atol=1e-5)
    total = 25 * invariance + 125 * regularizer
    torch.testing.assert_close(total, io["total"].squeeze(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(total, first)[0], io["grad_z1"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(l0_metric(io["z1"]), io["l0_metric_z1"].squeeze())
    torch.testing.assert_close(l1_metric(io["z1"]), io["l1_metric_z1"].squeeze())


def test_gradient():
    z, targets, directions = (torch.randn(shape, dtype=torch.float64) for shape in ((6, 3), (6, 3), (5, 3)))
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: sliced_wasserstein(z, targets, directions), (z,))


def test_draws_depend_on_step_seed_and_view():
    z = torch.rand(32, 4)
    base = rdmreg(z, z, step=3, num_projections=16)
    assert torch.equal(base, rdmreg(z, z, step=3, num_projections=16))
    others = [rdmreg(z, z, step=4, num_projections=16), rdmreg(z, z, step=3, num_projections=16, seed=1)]
    assert all(not torch.equal(base, other) for other in others)
    first, second = (module.rectified_targets(0, 3, 2 + view, 8, 4, 1.0, 0.0, 1.0, z.device) for view in range(2))
    assert not torch.equal(first, second)


def test_singular_vectors_come_first(monkeypatch):
    seen = []
    plain = module._distance
    monkeypatch.setattr(
        module, "_distance", lambda z, targets, chosen: seen.append(chosen) or plain(z, targets, chosen)
    )
    first, second = torch.rand(2, 12, 5) * torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0])
    rdmreg(first, second, 0, num_projections=8, projections=SVD)
    for z, chosen in zip((first, second), seen, strict=True):
        assert chosen.shape == (8, 5)
        torch.testing.assert_close(chosen.norm(dim=1), torch.ones(8))
        singular = (z - z.mean(0)) @ chosen[:5].T
        torch.testing.assert_close(singular.norm(dim=0), torch.linalg.svdvals(z - z.mean(0)), rtol=1e-4, atol=1e-5)
    assert torch.equal(seen[0][5:], seen[1][5:]) and not torch.equal(seen[0][:5], seen[1][:5])
    rdmreg(first, second, 0, num_projections=8, projections="torch_svd_bottom_half_eigen_and_random")
    torch.testing.assert_close(seen[2][:3], seen[0][2:5])
    with pytest.raises(ValueError, match="num_projections 4 is less than the 5 singular vectors"):
        rdmreg(first, second, 0, num_projections=4, projections=SVD)


def test_metrics_of_dead_features():
    assert l0_metric(torch.zeros(3, 4)) == 0 and l1_metric(torch.zeros(3, 4)) == 0
    z = torch.zeros(8, 4, requires_grad=True)  # after a ReLU: what is dead gets no gradient
    (gradient,) = torch.autograd.grad(rdmreg(z.relu(), z.relu(), 0, num_projections=8), z)
    assert (gradient == 0).all()


def test_compiles_whole():
    compiled = torch.compile(
        lambda x, y, step: rdmreg(x, y, step, num_projections=8, projections=SVD), fullgraph=True, backend="eager"
    )
    first, second = torch.rand(2, 6, 3)
    first.requires_grad_()
    for step in (1, 2):
        found, expected = (
            f(first, second, step) for f in (compiled, lambda *x: rdmreg(*x, num_projections=8, projections=SVD))
        )
        torch.testing.assert_close(torch.autograd.grad(found, first), torch.autograd.grad(expected, first))


def test_statistics_stay_in_float32():
    first, second = torch.rand(2, 16, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = rdmreg(first, second, 0, num_projections=16)
    assert torch.equal(inside, rdmreg(first.float(), second.float(), 0, num_projections=16))


def test_what_has_no_distance_is_refused():
    z = torch.ones(4, 3)
    for arguments, message in (
        ({"p": 0.0}, "p 0.0 must be above 0"),
        ({"mu": math.nan}, "mu nan finite"),
        ({"sigma_mode": "one"}, "'one' is not one of sigma_GN, sigma_RGN"),
    ):
        with pytest.raises(ValueError, match=message):
            RectifiedGeneralizedGaussian(**arguments)
    with pytest.raises(ValueError, match="prob_active 1.0"):
        RectifiedGeneralizedGaussian.with_prob_active(1.0)
    with pytest.raises(ValueError, match="pass step="):
        rdmreg(z, z, None)
    with pytest.raises(ValueError, match="'svd' is not one of random"):
        rdmreg(z, z, 0, projections="svd")
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(3,\)"):
        rdmreg(z, z[0], 0)
    with pytest.raises(ValueError, match="0 samples"):
        rdmreg(z[:0], z[:0], 0)
    with pytest.raises(ValueError, match=r"\(4, 3\), \(3, 3\), \(2, 3\)"):
        sliced_wasserstein(z, z[:3], z[:2])
