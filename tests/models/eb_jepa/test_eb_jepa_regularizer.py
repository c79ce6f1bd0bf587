"""The terms of EB-JEPA beside recorded numbers of the official code, in all modes."""

import json

import pytest
import torch
from golden_eb_jepa import GOLDEN, frames_first
from safetensors.torch import load_file

from hf_jepa.models.eb_jepa.configuration_eb_jepa import EbJepaConfig
from hf_jepa.models.eb_jepa.regularizer_eb_jepa import EbJepaRegularizer


IO, WEIGHTS = (load_file(GOLDEN / f"losses/{name}.safetensors") for name in ("io", "weights"))
MODES = json.loads((GOLDEN / "losses/config.json").read_text())
TERMS = {"cov_loss": "covariance", "std_loss": "variance", "sim_loss_t": "similarity", "idm_loss": "inverse_dynamics"}


def regularizer_of(mode, **fields):
    """The regulariser of a recorded mode, with its weights."""
    names = {"cov_coeff": "covariance", "std_coeff": "variance", "sim_coeff_t": "similarity"}
    names = {f"{name}_weight": mode.get(key, 0.0) for key, name in names.items()}
    samples = ("first_t" if mode.get("first_t_only", True) else "all_t") + (
        "_spatial" if mode.get("spatial_as_samples") else ""
    )
    after = mode.get("idm_after_proj", False)
    fields_of_mode = {
        "encoder_type": "resnet5",
        "predictor_type": "conv",
        "encoder_hidden_sizes": [4, 4, 8],
        "hidden_size": 5,
        "image_size": 2,
        "proj_sizes": [12, 7] if mode.get("projector") else None,
        "regularization_samples": samples,
        "variance_margin": mode.get("std_margin", 1.0),
        "inverse_dynamics_weight": mode.get("idm_coeff", 0.0),
        "inverse_dynamics_hidden_size": 9,
        "similarity_after_projector": mode.get("sim_t_after_proj", False),
        "inverse_dynamics_after_projector": after,
        "projected_axes": "official",
    }
    config = EbJepaConfig(**(fields_of_mode | names | fields))
    regularizer = EbJepaRegularizer(config)
    idm = "idm_after_proj.model" if after else "idm.model"
    names = {"projector.net": "projector", idm: "inverse_dynamics"}
    state = {
        name + key.removeprefix(prefix): value
        for prefix, name in names.items()
        for key, value in WEIGHTS.items()
        if key.startswith(f"{prefix}.") and getattr(regularizer, name) is not None
    }
    regularizer.load_state_dict(state)
    return regularizer


def assert_recorded(found, name):
    torch.testing.assert_close(found, IO[name].to(found.dtype), rtol=1e-5, atol=1e-6)


def assert_terms(terms, x, name):
    assert_recorded(terms.loss, f"{name}/loss")
    parts = [term for term in terms[1:] if term is not None]
    assert_recorded(sum(parts), f"{name}/unweighted")
    for key, field in TERMS.items():
        if f"{name}/{key}" in IO:
            assert_recorded(getattr(terms, field), f"{name}/{key}")
    (gradient,) = torch.autograd.grad(terms.loss, x)
    torch.testing.assert_close(gradient, IO[f"{name}/grad_x"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in MODES if name.startswith("reg_")])
def test_the_composite_regularizer(name):
    x = IO["x"].clone().requires_grad_()
    terms = regularizer_of(MODES[name])(frames_first(x), frames_first(IO["actions"])[:, :-1])
    assert all(term is not None for term in terms)
    assert_terms(terms, x, name)


@pytest.mark.parametrize("name", ["vc", "vc_projector"])
def test_variance_and_covariance_of_all_pixels(name):
    x = IO["x"].clone().requires_grad_()
    mode = MODES["vc"] | {"first_t_only": False, "spatial_as_samples": True, "projector": "projector" in name}
    assert_terms(regularizer_of(mode)(frames_first(x)), x, name)


@pytest.mark.parametrize("name", ["square_seq", "square_seq_projector"])
def test_the_distance_of_sequences(name):
    x, other = IO["x"].clone().requires_grad_(), IO["pred"]
    regularizer = regularizer_of({"projector": "projector" in name})
    loss = (regularizer.project(frames_first(x)) - regularizer.project(frames_first(other))).square().mean()
    assert_recorded(loss, f"{name}/loss")
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], IO[f"{name}/grad_x"], rtol=1e-4, atol=1e-6)


def test_what_is_not_needed_is_not_computed():
    regularizer = regularizer_of({"cov_coeff": 1.0, "std_coeff": 1.0})
    terms = regularizer(frames_first(IO["x"]))
    assert terms.similarity is None and terms.inverse_dynamics is None and regularizer.inverse_dynamics is None
    with pytest.raises(ValueError, match="need actions"):
        regularizer_of(MODES["reg_default"])(frames_first(IO["x"]))


def test_terms_after_the_projector_keep_clips_and_times_apart():
    mode, actions = MODES["reg_proj_after"], frames_first(IO["actions"])[:, :-1]
    still = frames_first(IO["x"])[:, :1].expand(-1, 4, -1, -1, -1)
    corrected = regularizer_of(mode, projected_axes="corrected")
    assert corrected(still, actions).similarity < 1e-12
    assert regularizer_of(mode)(still, actions).similarity > 0.1  # the official axes
    clip = frames_first(IO["x"])
    projected = corrected.project(clip)
    expected = (projected[:, 1:] - projected[:, :-1]).square().mean()
    torch.testing.assert_close(corrected(clip, actions).similarity, expected)
