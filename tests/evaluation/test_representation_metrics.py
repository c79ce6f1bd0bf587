"""Representation metrics against the golden numbers, and on inputs whose answer is known."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.evaluation.metrics import (
    alpha_req,
    condition_number,
    effective_rank,
    lidar,
    mean_cosine_similarity,
    mean_std,
    participation_ratio,
    per_dimension_std,
    rankme,
    std_of_l2_normalized,
)


GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden" / "metrics"
BASIC = json.loads((GOLDEN / "basic" / "config.json").read_text())
COLLAPSED = json.loads((GOLDEN / "collapsed" / "config.json").read_text())
ON_EMBEDDINGS = {
    "rankme_eps1e-07": rankme,
    "rankme_eps1e-05": lambda x: rankme(x, eps=1e-5),
    "rankme_eps0": lambda x: rankme(x, eps=0.0),
    "rankme_centered_eps1e-07": lambda x: rankme(x, center=True),
    "stable_pretraining.rankme_float32": lambda x: rankme(x, eps=1e-5),
    "effective_rank_roy_vetterli_singular_values": effective_rank,
    "effective_rank_covariance_eigenvalues": lambda x: effective_rank(x, "covariance"),
    "participation_ratio": participation_ratio,
    "alpha_req_trange_11_100": alpha_req,
    "alpha_req_trange_3_100": lambda x: alpha_req(x, (3, 100)),
    "alpha_req_trange_5_50": lambda x: alpha_req(x, (5, 50)),
    "alpha_req_trange_3_50": lambda x: alpha_req(x, (3, 50)),
    "alpha_full_unweighted": lambda x: alpha_req(x, None, weighted=False),
    "mean_std": mean_std,
    "min_std": lambda x: per_dimension_std(x).min().item(),
    "std_of_l2_normalized": std_of_l2_normalized,
    "one_over_sqrt_d": lambda x: x.shape[1] ** -0.5,
    "mean_cosine_similarity_offdiag": mean_cosine_similarity,
    "condition_number": condition_number,
}
# Outcomes of one call: the golden entropy is the log of the rank, the top eigenvalue has a test of its own.
ON_LIDAR = {
    "lidar": lambda x, q: lidar(x, q),
    "lidar_float64": lambda x, q: lidar(x.double(), q),
    "lidar_entropy": lambda x, q: math.log(lidar(x, q)),
    "lidar_delta1e-3": lambda x, q: lidar(x, q, delta=1e-3),
}


@pytest.fixture(scope="module")
def basic():
    return load_file(GOLDEN / "basic" / "io.safetensors")


def test_every_golden_number_is_checked():
    assert set(BASIC["expected"]) - {"lidar_top_eigenvalue"} == set(ON_EMBEDDINGS) | set(ON_LIDAR)


@pytest.mark.parametrize("name", ON_EMBEDDINGS)
def test_golden_on_embeddings(basic, name):
    assert ON_EMBEDDINGS[name](basic["embeddings"]) == pytest.approx(BASIC["expected"][name], rel=1e-4)


@pytest.mark.parametrize("name", ON_LIDAR)
def test_golden_lidar(basic, name):
    value = ON_LIDAR[name](basic["lidar_embeddings"], BASIC["inputs"]["lidar_samples_per_class"])
    # The case allows 1e-3; how the smoothing is normalised shows only in the ninth digit.
    assert value == pytest.approx(BASIC["expected"][name], rel=1e-10 if name == "lidar_float64" else 1e-4)


def test_golden_collapsed():
    data = load_file(GOLDEN / "collapsed" / "io.safetensors")
    functions = {
        "rankme": rankme,
        "effective_rank_cov": lambda x: effective_rank(x, "covariance"),
        "mean_std": mean_std,
        "std_of_l2_normalized": std_of_l2_normalized,
    }
    for case, expected in COLLAPSED.items():
        for name, value in expected.items():
            assert functions[name](data[case]) == pytest.approx(value, rel=1e-3, abs=1e-12), (case, name)


@pytest.mark.parametrize("value", [0.37, 1e4, -3e-3, 0.0])
def test_a_point_has_rank_one_or_none(value):
    x = torch.full((64, 24), value)
    assert rankme(x) == (pytest.approx(1.0, abs=1e-3) if value else 0.0)
    assert effective_rank(x, "covariance") == participation_ratio(x) == 0.0
    assert lidar(x, 4) == 0.0  # the smoothing alone would report all 24
    assert mean_std(x) == std_of_l2_normalized(x) == 0.0
    assert condition_number(x) > 1e12
    with pytest.raises(ValueError, match="lost dimensions"):
        alpha_req(x, (3, 20))


def test_lidar_counts_only_directions_that_separate_samples():
    g = torch.Generator().manual_seed(0)
    means = torch.zeros(200, 12)
    means[:, :3] = torch.randn(200, 3, generator=g) * 10  # samples differ in 3 directions
    x = means.repeat_interleave(8, 0) + torch.randn(1600, 12, generator=g) * 0.1  # views in all 12
    assert 2.9 < lidar(x, 8) < 3.1
    # Rows shuffled across samples are views of nothing: no direction separates the "classes" any more.
    shuffled = lidar(x[torch.randperm(1600, generator=g)], 8)
    assert shuffled > 5


def test_lidar_survives_a_scale_that_drowns_delta():
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(0)) * 1e7
    assert 1 < lidar(x, 2) <= 16  # 20 classes of 2: Sw has more dimensions than degrees of freedom need


def test_ranks_do_not_depend_on_scale_or_rotation():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(100, 10, generator=g) * torch.arange(1.0, 11)
    rotation = torch.linalg.qr(torch.randn(10, 10, generator=g)).Q
    for f in (rankme, effective_rank, participation_ratio, lambda x: effective_rank(x, "covariance")):
        assert f(x @ rotation * 7) == pytest.approx(f(x), rel=1e-5)


def test_cosine_equals_the_full_matrix():
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) + 0.5
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    off_diagonal = (unit @ unit.T)[~torch.eye(30, dtype=torch.bool)]
    assert mean_cosine_similarity(x) == pytest.approx(off_diagonal.mean().item(), rel=1e-9)
    assert mean_cosine_similarity(torch.cat([x[:1], -x[:1]])) == pytest.approx(-1.0)


def test_bfloat16_is_measured_in_float64_even_under_autocast(basic):
    x = basic["embeddings"].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rankme(x) == rankme(x.double())
        assert lidar(basic["lidar_embeddings"], 6) == lidar(basic["lidar_embeddings"].double(), 6)


@pytest.mark.parametrize(
    "function", [rankme, effective_rank, participation_ratio, mean_std, std_of_l2_normalized, condition_number]
)
def test_unusable_embeddings_are_refused_with_numbers(function):
    broken = torch.zeros(6, 3)
    broken[4, 1], broken[5] = float("nan"), float("inf")
    with pytest.raises(ValueError, match="4 values that are NaN or infinite, the first in row 4"):
        function(broken)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\)"):
        function(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="1 rows and 3 dimensions: at least 2"):
        function(torch.zeros(1, 3))
    with pytest.raises(TypeError, match="int64"):
        function(torch.zeros(4, 3, dtype=torch.long))


def test_unusable_options_are_refused_with_numbers():
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"fit_range \(11, 100\) does not fit 8 eigenvalues"):
        alpha_req(x)
    with pytest.raises(ValueError, match="does not fit 5 eigenvalues"):
        alpha_req(x[:6], (0, 6))  # centring leaves N - 1
    with pytest.raises(ValueError, match="'eigen' is not one of"):
        effective_rank(x, "eigen")
    with pytest.raises(ValueError, match="20 rows do not form two or more classes of 3"):
        lidar(x, 3)
    for metric, options in ((rankme, {"eps": -1.0}), (rankme, {"eps": math.nan}), (lidar, {"eps": -1.0})):
        with pytest.raises(ValueError, match="eps is (-1.0|nan): it must be 0 or more"):
            metric(x, **({"samples_per_class": 2} if metric is lidar else {}), **options)
    with pytest.raises(ValueError, match="delta is nan"):
        lidar(x, 2, delta=math.nan)
    with pytest.raises(TypeError, match="samples_per_class must be a whole number, got 2.0"):
        lidar(x, 2.0)
    with pytest.raises(ValueError, match="does not fit 1 eigenvalues.*more rows and dimensions are needed"):
        alpha_req(x[:, :1])
    with pytest.raises(ValueError, match="samples_per_class is 1: it must be at least 2"):
        lidar(x, 1)
    with pytest.raises(ValueError, match="delta is 0"):
        lidar(x, 2, delta=0)
