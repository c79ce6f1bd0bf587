"""SIGReg beside recorded values and a plain restatement."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.losses import sigreg as module
from hf_jepa.losses.draws import choose_indices, unit_directions
from hf_jepa.losses.invariance import invariance_loss
from hf_jepa.losses.rdmreg import rectified_targets
from hf_jepa.losses.sigreg import characteristic_sums, dense_sigreg, sigreg, sigreg_statistics


IO = load_file(Path(__file__).parents[1] / "fixtures/golden/regularizers/sigreg_lejepa/io.safetensors")
PROJ, STEP, SLICES = IO["proj"], 7, 32
EB_JEPA = {"n_points": 10, "interval": "full", "scale_by_n": False}


def recorded(name: str) -> torch.Tensor:
    return IO[name].squeeze()


def assert_recorded(found: torch.Tensor, name: str) -> None:
    torch.testing.assert_close(found, recorded(name), rtol=1e-4, atol=1e-5)


def restated(x: torch.Tensor, t: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Samples (N, S) along directions, all knots of an interval and their weights -> (S,)."""
    turned, window = x.unsqueeze(-1) * t, torch.exp(-t.square() / 2)
    error = (turned.cos().mean(0) - window).square() + turned.sin().mean(0).square()
    return len(x) * (error * window * weights).sum(-1)


def test_recorded_statistics_and_gradient():
    z = PROJ.clone().requires_grad_()
    found = sigreg_statistics(z, IO["A"])
    assert_recorded(found, "stats_per_view_slice")
    assert_recorded(found.mean(), "sigreg")
    (gradient,) = torch.autograd.grad(found.mean(), z)
    torch.testing.assert_close(gradient, IO["grad_proj_of_sigreg"], rtol=1e-4, atol=1e-6)


def test_recorded_characteristic_function():
    sums = characteristic_sums(PROJ, IO["A"][:, :4], 0.0, 3 / 16, 17) / PROJ.shape[1]  # (V, K, 4, 2)
    torch.testing.assert_close(sums.permute(3, 0, 2, 1), IO["ecf_real_imag"], rtol=1e-4, atol=1e-5)


def test_the_directions_of_the_official_code_are_drawn():
    assert torch.equal(unit_directions(0, STEP, 10, SLICES, torch.device("cpu")), IO["A"])
    assert_recorded(sigreg(PROJ, STEP, SLICES), "sigreg")
    assert not torch.equal(unit_directions(1, STEP, 10, SLICES, torch.device("cpu")), IO["A"])
    assert not torch.equal(unit_directions(0, STEP + 1, 10, SLICES, torch.device("cpu")), IO["A"])


def test_options():
    assert_recorded(sigreg(PROJ, STEP, SLICES, flattened=True), "sigreg_views_flattened")
    clip = recorded("clip_value").item()
    assert_recorded(sigreg(PROJ, STEP, SLICES, clip_value=clip), "sigreg_clip_at_median")


def test_combinations():
    each, flat = sigreg(PROJ, STEP, SLICES), sigreg(PROJ, STEP, SLICES, flattened=True)
    invariance, to_global = invariance_loss(PROJ), invariance_loss(PROJ, num_global=2)
    assert_recorded(0.02 * each + 0.98 * invariance, "lejepa_loss_lambda0.02")
    assert_recorded(0.05 * each + 0.95 * to_global, "lejepa_loss_global_lambda0.05")
    assert_recorded(to_global + 0.02 * flat, "stable_pretraining.lejepa_loss_lambda0.02_2global")


def test_eb_jepa():
    assert_recorded(sigreg(PROJ[0], STEP, SLICES, **EB_JEPA), "eb_jepa.bcs_view0")
    term = sigreg(PROJ[:2], STEP, SLICES, **EB_JEPA)
    assert_recorded(term, "eb_jepa.bcs_term")
    invariance = (PROJ[0] - PROJ[1]).square().mean()
    assert_recorded(invariance + 10 * term, "eb_jepa.bcs_total_lmbd10_views01")


@pytest.mark.parametrize("points", [2, 3, 8, 9])
def test_a_full_interval_is_the_plain_trapezoid_rule(points):
    z, directions = torch.randn(20, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    t = torch.linspace(-2.5, 2.5, points, dtype=torch.float64)
    weights = torch.full_like(t, 5 / (points - 1))
    weights[[0, -1]] /= 2
    found = sigreg_statistics(z, directions, t_max=2.5, n_points=points, interval="full")
    torch.testing.assert_close(found, restated(z, t, weights))


@pytest.mark.parametrize("options", [{"n_points": 5}, {"n_points": 6, "interval": "full", "scale_by_n": False}])
def test_gradient(options, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_SLICES", 2)  # several chunks, the last one smaller
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", {"cpu": 1})
    z = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: sigreg(z, 0, num_slices=5, **options), (z,))


def test_chunks_change_nothing(monkeypatch):
    z = torch.randn(2, 30, 8, requires_grad=True)
    whole = sigreg(z, 0, num_slices=70)
    (gradient,) = torch.autograd.grad(whole, z)
    monkeypatch.setattr(module, "_CHUNK_SLICES", 16)
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", {"cpu": 1})
    parts = sigreg(z, 0, num_slices=70)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, z)[0], gradient)


def test_powers_stay_exact_far_out():
    """Embeddings of training may be far from the unit Gaussian: angles of up to 1e3 at 33 knots, in float32."""
    z, directions = 300 * torch.randn(64, 4), torch.eye(4)
    exact = sigreg_statistics(z.double(), directions.double(), n_points=33)
    torch.testing.assert_close(sigreg_statistics(z, directions, n_points=33).double(), exact, rtol=1e-3, atol=0)


def test_scale_by_n_and_the_noise_of_a_sample():
    gaussian = torch.randn(4096, 8)
    scaled, plain = (sigreg(gaussian, 0, num_slices=64, scale_by_n=scale) for scale in (True, False))
    torch.testing.assert_close(scaled, 4096 * plain)
    assert 0.3 < scaled < 3  # independent of the batch for Gaussian samples
    assert sigreg(gaussian * 0.5, 0, num_slices=64) > 100


def test_dense_tests_every_position():
    features = torch.randn(6, 5, 4)
    torch.testing.assert_close(
        dense_sigreg(features, 3, num_slices=16), sigreg(features.transpose(0, 1), 3, num_slices=16)
    )
    one = torch.stack([sigreg(features[:, i], 3, num_slices=16) for i in range(5)])
    by_step = torch.stack([dense_sigreg(features, step, num_positions=1, num_slices=16) for step in range(40)])
    found = dense_sigreg(features, 3, num_positions=1, num_slices=16)
    assert (one - found).abs().min() < 1e-6 and by_step.unique().numel() > 1
    assert torch.equal(dense_sigreg(features, 3, 99, num_slices=16), dense_sigreg(features, 3, num_slices=16))


def test_statistics_stay_in_float32():
    z = torch.randn(2, 16, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sigreg(z, 0, num_slices=16)
    assert torch.equal(inside, sigreg(z.float(), 0, num_slices=16)) and inside.dtype == torch.float32


def test_compiles_whole_and_once_for_all_steps():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(
        lambda z, step: dense_sigreg(z, step, num_positions=2, num_slices=8), fullgraph=True, backend=backend
    )
    for step in range(4):
        z = torch.randn(5, 4, 3, requires_grad=True)
        found, expected = compiled(z, step), dense_sigreg(z, step, num_positions=2, num_slices=8)
        torch.testing.assert_close(torch.autograd.grad(found, z), torch.autograd.grad(expected, z))
    assert len(graphs) <= 2  # one for the first number of a step, one for all others


def test_operators_keep_their_promises():
    z, directions = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True), torch.randn(3, 5).double()
    for operator, arguments in (
        (characteristic_sums, (z, directions, 0.1, 0.5, 4)),
        (unit_directions, (0, 1, 3, 5, z.device)),
        (choose_indices, (0, 1, 9, 5, z.device)),
        (rectified_targets, (0, 1, 2, 6, 4, 1.0, 0.0, 1.0, z.device)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_what_has_no_statistic_is_refused():
    z = torch.ones(4, 3)
    with pytest.raises(ValueError, match="pass step="):
        sigreg(z, None)
    with pytest.raises(ValueError, match="pass step="):
        dense_sigreg(z[None], None)
    with pytest.raises(ValueError, match="'whole' is not one of half, full"):
        sigreg(z, 0, interval="whole")
    with pytest.raises(ValueError, match="not 3.0 and 1"):
        sigreg(z, 0, n_points=1)
    with pytest.raises(ValueError, match=r"\(0, 3\) are none"):
        sigreg(z[:0], 0)
    for t_max in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"a finite t_max above 0 .* not {t_max}"):
            sigreg(z, 0, t_max=t_max)
    for empty, slices in ((z, 0), (z[:, :0], 4), (z[None][:0], 4)):  # a mean of nothing would be NaN
        with pytest.raises(ValueError, match="give no statistic"):
            sigreg(empty, 0, num_slices=slices)
    with pytest.raises(ValueError, match=r"\(4, 3\) and directions \(4, 2\)"):
        sigreg_statistics(z, torch.ones(4, 2))
    with pytest.raises(ValueError, match="num_positions 0"):
        dense_sigreg(z[None], 0, num_positions=0)
    with pytest.raises(ValueError, match=r"\(4, 3\) are not \(batch"):
        dense_sigreg(z, 0)
