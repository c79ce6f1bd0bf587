"""The single losses of eb_jepa beside recorded numbers of the official code."""

import pytest
import torch
from golden_eb_jepa import GOLDEN, frames_first
from safetensors.torch import load_file

from hf_jepa.losses.bcs import bcs_loss
from hf_jepa.losses.draws import unit_directions
from hf_jepa.losses.dynamics import inverse_dynamics_loss, temporal_similarity
from hf_jepa.losses.sigreg import sigreg_statistics
from hf_jepa.losses.vicreg import covariance_term, variance_term, vicreg_loss, video_variance_covariance
from hf_jepa.models.eb_jepa.regularizer_eb_jepa import InverseDynamics


IO, WEIGHTS = (load_file(GOLDEN / f"losses/{name}.safetensors") for name in ("io", "weights"))


def assert_loss(loss, given, name, of="x"):
    torch.testing.assert_close(loss, IO[f"{name}/loss"], rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(loss, given)
    torch.testing.assert_close(gradient, IO[f"{name}/grad_{of}"], rtol=1e-4, atol=1e-7)


def test_variance_and_covariance_of_rows():
    for name, term in (("hinge_std", variance_term), ("covariance", lambda z: covariance_term(z, "eb_jepa"))):
        x = IO["x"].clone().requires_grad_()
        assert_loss(term(x.movedim(1, -1).flatten(0, -2)), x, name)


def test_similarity_in_time():
    x = IO["x"].clone().requires_grad_()
    assert_loss(temporal_similarity(frames_first(x)), x, "temporal_similarity")
    assert temporal_similarity(x[:, :1]) == 0


def test_inverse_dynamics():
    x, actions = IO["x"].clone().requires_grad_(), frames_first(IO["actions"])[:, :-1]
    network = InverseDynamics(20, 9, 2)
    prefix = "idm.model."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in WEIGHTS.items() if k.startswith(prefix)})
    predicted = network(frames_first(x).flatten(2))
    assert_loss(inverse_dynamics_loss(predicted, actions), x, "inverse_dynamics")
    with pytest.raises(ValueError, match=r"actions \(6, 2, 2\) beside predicted ones \(6, 3, 2\)"):
        inverse_dynamics_loss(predicted, actions[:, 1:])


def test_vicreg_of_two_views():
    z1 = IO["z1"].clone().requires_grad_()
    terms = vicreg_loss(z1, IO["z2"], "eb_jepa")
    for found, name in zip(terms[1:], ("invariance_loss", "var_loss", "cov_loss"), strict=True):
        torch.testing.assert_close(found, IO[f"vicreg/{name}"], rtol=1e-5, atol=1e-6)
    assert_loss(terms.loss, z1, "vicreg", of="z1")


@pytest.mark.parametrize("step", [0, 1])
def test_bcs(step):
    z1, name = IO["z1"].clone().requires_grad_(), f"bcs_step{step}"
    directions = unit_directions(0, step, 10, 16, torch.device("cpu"))
    torch.testing.assert_close(directions, IO[f"{name}/directions"])
    statistics = sigreg_statistics(z1, directions, 3.0, 10, "full", scale_by_n=False)
    torch.testing.assert_close(statistics, IO[f"{name}/epps_pulley_view1"], rtol=1e-5, atol=1e-6)
    terms = bcs_loss(z1, IO["z2"], step, num_slices=16, weight=10.0)
    torch.testing.assert_close(terms.invariance, IO[f"{name}/invariance_loss"])
    torch.testing.assert_close(terms.normality, IO[f"{name}/bcs_loss"], rtol=1e-5, atol=1e-6)
    assert_loss(terms.loss, z1, name, of="z1")


def test_bcs_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match=r"\(12, 10\) and \(11, 10\)"):
        bcs_loss(IO["z1"], IO["z2"][1:], 0)
    with pytest.raises(ValueError, match="pass step="):
        bcs_loss(IO["z1"], IO["z2"], None)


def test_the_margin_of_the_variance():
    wide = video_variance_covariance(IO["x"], "all_t", margin=2.0)[0]
    assert wide > video_variance_covariance(IO["x"], "all_t")[0]
