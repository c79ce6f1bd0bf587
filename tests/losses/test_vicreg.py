"""VICReg in three scalings beside recorded values, and eb_jepa's regulariser of videos."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.losses.vicreg import covariance_term, variance_term, vicreg_loss, video_vc_terms


IO = load_file(Path(__file__).parents[1] / "fixtures/golden/regularizers/vicreg/io.safetensors")


def recorded(name: str) -> torch.Tensor:
    return IO[name].squeeze()


def assert_recorded(found: torch.Tensor, name: str) -> None:
    torch.testing.assert_close(found, recorded(name), rtol=1e-5, atol=1e-5)


def test_official_terms_and_gradients():
    first, second = IO["z1"].requires_grad_(), IO["z2"].requires_grad_()
    terms = vicreg_loss(first, second)
    for found, name in zip(terms, ("loss", "invariance", "variance_official", "covariance_official"), strict=True):
        assert_recorded(found, name)
    assert_recorded(terms.loss, "stable_pretraining.loss")
    for gradient, name in zip(torch.autograd.grad(terms.loss, (first, second)), ("grad_z1", "grad_z2"), strict=True):
        torch.testing.assert_close(gradient, IO[name], rtol=1e-4, atol=1e-5)


def test_solo_learn_scaling():
    terms = vicreg_loss(IO["z1"], IO["z2"], "solo_learn")
    for found, name in ((terms.loss, "loss"), (terms.variance, "variance"), (terms.covariance, "covariance")):
        assert_recorded(found, f"solo_learn.{name}")


def test_eb_jepa_scaling():
    terms = vicreg_loss(IO["z1"], IO["z2"], "eb_jepa")
    for found, name in ((terms.loss, "loss_std1_cov80"), (terms.variance, "var"), (terms.covariance, "cov")):
        assert_recorded(found, f"eb_jepa.{name}")
    other = vicreg_loss(IO["z1"], IO["z2"], "eb_jepa", variance_weight=25.0, covariance_weight=1.0)
    assert_recorded(other.loss, "eb_jepa.loss_std25_cov1")
    assert_recorded(variance_term(IO["z1"]), "eb_jepa.hinge_std_z1")
    assert_recorded(covariance_term(IO["z1"], "eb_jepa"), "eb_jepa.cov_z1")


@pytest.mark.parametrize("samples", ["first_t", "all_t", "first_t_spatial", "all_t_spatial"])
def test_videos(samples):
    terms = video_vc_terms(IO["eb_jepa.vcloss_input_bcthw"], samples)
    for found, name in zip(terms, ("std", "cov", "sim_t"), strict=True):
        assert_recorded(found, f"eb_jepa.vc_sim.{samples}.{name}")
    assert_recorded(10 * terms[0] + 2 * terms[1] + 3 * terms[2], f"eb_jepa.vc_sim.{samples}.total")


def test_vc_loss_of_videos():
    terms = video_vc_terms(IO["eb_jepa.vcloss_input_bcthw"], "all_t_spatial")
    assert_recorded(10 * terms.variance + 2 * terms.covariance, "eb_jepa.vcloss_std10_cov2")
    assert video_vc_terms(IO["eb_jepa.vcloss_input_bcthw"][:, :, :1]).similarity == 0


def test_leading_axes_are_batches_of_their_own():
    blocks = torch.randn(3, 2, 7, 4) * torch.rand(4)
    for term in (variance_term, covariance_term):
        apart = torch.stack([term(block) for block in blocks.flatten(0, 1)]).mean()
        torch.testing.assert_close(term(blocks), apart)
    assert variance_term(blocks, gamma=0.5) < variance_term(blocks)


def test_collapsed_embeddings_have_a_finite_gradient():
    z = torch.ones(6, 3, requires_grad=True)
    loss = vicreg_loss(z, z).loss
    loss.backward()
    assert loss.item() == pytest.approx(25 * (1 - 1e-2)) and z.grad.isfinite().all()


def test_statistics_stay_in_float32():
    first, second = torch.randn(2, 16, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(vicreg_loss(first, second).loss, vicreg_loss(first, second).loss.float())
        inside = vicreg_loss(first, second)
    assert torch.equal(torch.stack(inside), torch.stack(vicreg_loss(first, second)))
    assert vicreg_loss(first.bfloat16(), second.bfloat16()).loss.dtype == torch.float32


def test_what_has_no_statistics_is_refused():
    z = torch.ones(4, 3)
    with pytest.raises(ValueError, match="'ours' is not one of official, solo_learn, eb_jepa"):
        vicreg_loss(z, z, "ours")
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        vicreg_loss(z, z[:, :2])
    with pytest.raises(ValueError, match="at least 2 rows"):
        vicreg_loss(z[:1], z[:1])
    with pytest.raises(ValueError, match=r"\(3,\) are not \(\.\.\., N, D\)"):
        variance_term(z[0])
    with pytest.raises(ValueError, match="'all' is not one of first_t"):
        video_vc_terms(torch.ones(2, 3, 4, 1, 1), "all")
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 1\) are not \(B, C, T, H, W\)"):
        video_vc_terms(torch.ones(2, 3, 4, 1))
