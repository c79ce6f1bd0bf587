"""Representation metrics that need no label: rank, spectrum and spread of a matrix of embeddings.

All of them compute in float64, whatever the precision of the input, and take embeddings of shape (N, D), one row per
sample. Each raises TypeError for anything but a floating-point tensor, and ValueError for another shape, too few rows,
NaN or infinity. In a distributed run gather the rows first: the mean of per-process ranks is not the rank.

A representation that has collapsed to a point is a finding, not an error: ranks are then 1.0, or 0.0 for the centred
ones; only `alpha_req` refuses it. Ranks do not see scale: the rounding noise of a collapsed network can have a high
centred rank, so read them beside `mean_std`.
"""

import math

import torch
from torch.linalg import svdvals

from hf_jepa.evaluation.inputs import check_count, check_features


SPECTRA = ("singular_values", "covariance")


def _entropy_rank(p: torch.Tensor) -> float:
    """exp of the entropy of `p`, where 0 log 0 = 0."""
    return torch.special.entr(p).sum().exp().item()


def _covariance_eigenvalues(x: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of the unbiased covariance, descending; through singular values, which keep the small ones exact."""
    return svdvals(x - x.mean(0)).square() / (len(x) - 1)  # (min(N, D),)


def _check_eps(eps: float) -> None:
    if not eps >= 0:
        raise ValueError(f"eps is {eps}: it must be 0 or more")


def _is_zero(eigenvalues: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether a covariance spectrum is only the rounding of the mean: centring a constant leaves eps * |x|, not 0."""
    noise = torch.finfo(x.dtype).eps * x.abs().max()
    return bool(eigenvalues[0] <= x.shape[1] * (8 * noise).square())


def rankme(embeddings: torch.Tensor, eps: float = 1e-7, center: bool = False) -> float:
    """RankMe: the smooth rank of the embedding matrix, between 1 (collapsed) and min(N, D).

    exp(-sum p log p) with p = sigma / sum(sigma) + eps over the singular values sigma (Garrido et al., 2210.02885,
    eq. 1). The paper does not centre and adds eps after normalising; eps differs between published codes (1e-7 in the
    paper, 1e-5 elsewhere) and shifts the value by about 0.5 %, so compare only values of one eps.

    Args:
        embeddings: (N, D); N of several times D gives a stable value.
        eps: added to each share.
        center: subtract the mean embedding first (not in the paper).

    Returns:
        the rank; 0.0 if every (centred) embedding is zero.

    Example:
        >>> import torch
        >>> round(rankme(torch.eye(8)), 3), round(rankme(torch.ones(8, 8)), 3)
        (8.0, 1.0)
    """
    _check_eps(eps)
    x = check_features(embeddings, min_rows=2)
    sigma = svdvals(x - x.mean(0) if center else x)
    total = sigma.sum()
    return _entropy_rank(sigma / total + eps) if total > 0 else 0.0


def effective_rank(embeddings: torch.Tensor, spectrum: str = "singular_values") -> float:
    """Effective rank of Roy and Vetterli (EUSIPCO 2007): exp of the entropy of a normalised spectrum.

    The two spectra in use give very different numbers for the same data (98 and 40 on one test case), so always say
    which: the paper's, "singular_values" of the uncentred matrix, or "covariance", the eigenvalues of the centred one.

    Args:
        embeddings: (N, D)
        spectrum: "singular_values" or "covariance".

    Returns:
        the rank, up to min(N, D); 0.0 if the spectrum is zero.

    Raises:
        ValueError: unknown spectrum, or not two rows or more of finite numbers.

    Example:
        >>> import torch
        >>> round(effective_rank(torch.eye(4)), 3), round(effective_rank(torch.eye(4), "covariance"), 3)
        (4.0, 3.0)
    """
    if spectrum not in SPECTRA:
        raise ValueError(f"spectrum {spectrum!r} is not one of {', '.join(SPECTRA)}")
    x = check_features(embeddings, min_rows=2)
    if spectrum == "covariance":
        values = _covariance_eigenvalues(x)
        return 0.0 if _is_zero(values, x) else _entropy_rank(values / values.sum())
    values = svdvals(x)
    return _entropy_rank(values / values.sum()) if values[0] > 0 else 0.0


def participation_ratio(embeddings: torch.Tensor) -> float:
    """(sum lambda)^2 / sum lambda^2 over the covariance eigenvalues: how many directions carry the variance.

    Args:
        embeddings: (N, D)

    Returns:
        between 1 and min(N - 1, D); 0.0 if the embeddings are constant.

    Example:
        >>> import torch
        >>> round(participation_ratio(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])), 3)
        2.0
    """
    x = check_features(embeddings, min_rows=2)
    values = _covariance_eigenvalues(x)
    return 0.0 if _is_zero(values, x) else (values.sum().square() / values.square().sum()).item()


def alpha_req(embeddings: torch.Tensor, fit_range: tuple[int, int] | None = (11, 100), weighted: bool = True) -> float:
    """alpha-ReQ: the decay exponent of the covariance spectrum, lambda_i ~ i^-alpha; near 1 is healthy.

    A least-squares line through log lambda_i over -log i, weighted by 1/i (Agrawal et al., NeurIPS 2022). The fitted
    range is not in the paper; (11, 100), (3, 100) and (5, 50) are in use and give different slopes.

    Args:
        embeddings: (N, D)
        fit_range: (first, stop), counted from 0 like `range`: (11, 100) fits the ranks 12 to 100. None fits all.
        weighted: weigh rank i by 1/i, so that the crowded tail does not decide alone.

    Raises:
        ValueError: wrong shape, NaN or inf, a range with fewer than 2 ranks or beyond the spectrum, or an eigenvalue
            in it that is numerically zero.

    Example:
        >>> import torch
        >>> scale = torch.arange(1.0, 17) ** -0.5  # variances 1 / i
        >>> rows = torch.cat([torch.diag(scale), -torch.diag(scale)])
        >>> round(alpha_req(rows, fit_range=None), 3)
        1.0
    """
    x = check_features(embeddings, min_rows=2)
    values = _covariance_eigenvalues(x)[: len(x) - 1]  # centring leaves at most N - 1
    first, stop = fit_range if fit_range is not None else (0, len(values))
    if not 0 <= first < stop - 1 or stop > len(values):
        advice = f"pass at least two ranks within (0, {len(values)}), or fit_range=None for all"
        if len(values) < 2:
            advice = "more rows and dimensions are needed"
        raise ValueError(
            f"fit_range ({first}, {stop}) does not fit {len(values)} eigenvalues of {len(x)} rows of {x.shape[1]} "
            f"dimensions: {advice}"
        )
    nonzero = int((values > values[0] * max(x.shape) * torch.finfo(x.dtype).eps).sum()) if values[0] > 0 else 0
    if stop > nonzero or _is_zero(values, x):
        raise ValueError(
            f"only {nonzero} of {len(values)} covariance eigenvalues are above rounding, fewer than fit_range "
            f"({first}, {stop}) needs: the representation has lost dimensions, look at `rankme` instead"
        )
    ranks = torch.arange(first + 1, stop + 1, dtype=x.dtype, device=x.device)
    weight = ranks.reciprocal() if weighted else torch.ones_like(ranks)
    weight = weight / weight.sum()
    log_rank, log_value = ranks.log(), values[first:stop].log()
    centred = log_rank - (weight * log_rank).sum()
    return -((weight * centred * log_value).sum() / (weight * centred.square()).sum()).item()


def lidar(embeddings: torch.Tensor, samples_per_class: int, delta: float = 1e-4, eps: float = 1e-8) -> float:
    """LiDAR: the smooth rank of the LDA matrix, where each clean sample is a class and its views are its members.

    exp of the entropy of the eigenvalues of Sw^-1/2 Sb Sw^-1/2 (Thilak et al., 2312.04000), with Sb the
    covariance of the class means and Sw the pooled covariance within the classes plus delta * I. Unlike RankMe it does
    not count directions in which views of one sample differ as much as different samples. The paper takes 1000 clean
    samples with 50 views each.

    Args:
        embeddings: (n * q, D) with the q views of one clean sample in q consecutive rows.
        samples_per_class: q, at least 2.
        delta: added to the diagonal of Sw; on the scale of squared embeddings.
        eps: added to each eigenvalue.

    Returns:
        between 1 and min(D, n - 1); 0.0 if the class means coincide (eps alone would then report the full rank D).

    Raises:
        ValueError: wrong shape, NaN or inf, q below 2, a row count that q does not divide, fewer than 2 classes.

    Example:
        >>> import torch
        >>> clean = torch.cat([torch.eye(3), -torch.eye(3)]).repeat_interleave(2, dim=0)  # 6 samples, 2 equal views
        >>> round(lidar(clean, samples_per_class=2), 3)
        3.0
    """
    x = check_features(embeddings, min_rows=4)
    check_count(samples_per_class, "samples_per_class", smallest=2)
    _check_eps(eps)
    if len(x) % samples_per_class or len(x) // samples_per_class < 2:
        raise ValueError(
            f"{len(x)} rows do not form two or more classes of {samples_per_class} consecutive rows (at least 2 each)"
        )
    if not delta > 0:
        raise ValueError(f"delta is {delta}: it must be positive, Sw may be singular")
    views = x.view(-1, samples_per_class, x.shape[1])  # (n, q, D)
    means = views.mean(dim=1)  # (n, D)
    between = means - means.mean(0)
    within = (views - means[:, None]).flatten(0, 1)  # (n * q, D)
    s_between = between.T @ between / (len(means) - 1)
    s_within = within.T @ within / (len(x) - len(means))
    s_within.diagonal().add_(delta)
    scale, basis = torch.linalg.eigh(s_within)
    whiten = basis * scale.clamp(min=delta).rsqrt()  # (D, D); the last factor of Sw^-1/2 does not change eigenvalues
    values = torch.linalg.eigvalsh(whiten.T @ s_between @ whiten).clamp(min=0)
    if values.sum() <= len(values) * eps:
        return 0.0
    return _entropy_rank((values + eps) / (values + eps).sum())


def per_dimension_std(embeddings: torch.Tensor) -> torch.Tensor:
    """Unbiased standard deviation of each dimension over the rows, the first sign of collapse (VICReg, 2105.04906).

    Args:
        embeddings: (N, D), as the model gives them, not normalised.

    Returns:
        (D,) float64; take `.min()` for dead dimensions.

    Example:
        >>> import torch
        >>> per_dimension_std(torch.tensor([[1.0, 5], [3, 5], [5, 5]])).tolist()
        [2.0, 0.0]
    """
    return check_features(embeddings, min_rows=2).std(dim=0)


def mean_std(embeddings: torch.Tensor) -> float:
    """Mean over the dimensions of `per_dimension_std`.

    Args:
        embeddings: (N, D), not normalised.

    Returns:
        the mean standard deviation, 0.0 when collapsed.

    Example:
        >>> import torch
        >>> mean_std(torch.tensor([[1.0, 5], [3, 5], [5, 5]]))
        1.0
    """
    return per_dimension_std(embeddings).mean().item()


def std_of_l2_normalized(embeddings: torch.Tensor) -> float:
    """Mean over the dimensions of the standard deviation of the l2-normalised rows (SimSiam, 2011.10566, section 4.1).

    Args:
        embeddings: (N, D); a row of zeros has no direction and stays zero.

    Returns:
        about 1 / sqrt(D) when healthy, 0.0 when collapsed.

    Example:
        >>> import torch
        >>> std_of_l2_normalized(torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
        0.0
    """
    x = check_features(embeddings, min_rows=2)
    return torch.nn.functional.normalize(x, dim=1).std(dim=0).mean().item()


def mean_cosine_similarity(embeddings: torch.Tensor) -> float:
    """Mean cosine between different rows: 0 when directions are spread evenly, 1 when all point one way.

    Args:
        embeddings: (N, D); the cosine with a row of zeros counts as 0.

    Returns:
        between -1 / (N - 1) and 1.

    Example:
        >>> import torch
        >>> mean_cosine_similarity(torch.eye(3))
        0.0
    """
    x = check_features(embeddings, min_rows=2)
    unit = torch.nn.functional.normalize(x, dim=1)
    # |sum of unit rows|^2 is the sum over all pairs, so no (N, N) matrix is needed.
    pairs = unit.sum(0).square().sum() - unit.square().sum()
    return (pairs / (len(x) * (len(x) - 1))).item()


def condition_number(embeddings: torch.Tensor) -> float:
    """Largest over smallest singular value of the uncentred matrix.

    Args:
        embeddings: (N, D)

    Returns:
        at least 1; infinite if the smallest singular value is exactly 0.

    Example:
        >>> import torch
        >>> round(condition_number(torch.diag(torch.tensor([4.0, 2.0]))), 6)
        2.0
    """
    sigma = svdvals(check_features(embeddings, min_rows=2))
    return (sigma[0] / sigma[-1]).item() if sigma[-1] > 0 else math.inf


__all__ = ["SPECTRA", "alpha_req", "condition_number", "effective_rank", "lidar", "mean_cosine_similarity", "mean_std"]
__all__ += ["participation_ratio", "per_dimension_std", "rankme", "std_of_l2_normalized"]
