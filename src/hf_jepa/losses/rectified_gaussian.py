"""The rectified generalised Gaussian, the distribution that Rectified LpJEPA (2602.01456) asks of embeddings."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch


SIGMA_MODES = ("sigma_GN", "sigma_RGN")


@dataclass(frozen=True)
class RectifiedGeneralizedGaussian:
    """`Y = relu(X)` where the density of X is proportional to `exp(-|x - mu|^p / (p sigma^p))`.

    p = 1 is a rectified Laplace distribution, p = 2 a rectified Gaussian. The smaller p and mu, the sparser is Y.

    Args:
        p: shape, above 0.
        mu: location, in units of Y.
        sigma_mode: which of the scales is taken: "sigma_GN" gives X variance 1, "sigma_RGN" gives it to Y.

    Raises:
        ValueError: p that is not above 0, mu that is not finite, or an unknown mode.

    Example:
        >>> target = RectifiedGeneralizedGaussian(p=1.0, mu=0.0)
        >>> round(target.sigma, 4), target.prob_active, round(target.mean, 4), round(target.variance, 4)
        (0.7071, 0.5, 0.3536, 0.375)
        >>> target.sample((1000, 2), torch.Generator().manual_seed(0)).gt(0).float().mean().round(decimals=1)
        tensor(0.5000)
    """

    p: float = 1.0
    mu: float = 0.0
    sigma_mode: str = "sigma_GN"

    def __post_init__(self) -> None:
        if not 0 < self.p < math.inf or not math.isfinite(self.mu):
            raise ValueError(f"p {self.p} must be above 0 and mu {self.mu} finite")
        if self.sigma_mode not in SIGMA_MODES:
            raise ValueError(f"sigma_mode {self.sigma_mode!r} is not one of {', '.join(SIGMA_MODES)}")

    @classmethod
    def with_prob_active(
        cls, prob_active: float, p: float = 1.0, sigma_mode: str = "sigma_GN"
    ) -> "RectifiedGeneralizedGaussian":
        """The distribution whose samples are above 0 with a given probability: mu is solved for.

        Args:
            prob_active: asked for, between 0 and 1; 1 - sparsity.
            p, sigma_mode: see the class.

        Raises:
            ValueError: a probability that is not between 0 and 1, and what the class refuses.

        Example:
            >>> target = RectifiedGeneralizedGaussian.with_prob_active(0.1, p=1.0)
            >>> round(target.mu, 4), round(target.prob_active, 6)
            (-1.138, 0.1)
        """
        if not 0 < prob_active < 1:
            raise ValueError(f"prob_active {prob_active} must be between 0 and 1")
        at_scale_one = _solve(lambda mu: _moments(p, mu, 1.0)[0], prob_active, *_bracket_of_mu(p, prob_active))
        if sigma_mode == "sigma_RGN":  # scales with Y, and so does mu
            sigma = _moments(p, at_scale_one, 1.0)[2] ** -0.5
        else:
            sigma = cls(p).sigma
        return cls(p, at_scale_one * sigma, sigma_mode)

    @cached_property
    def sigma(self) -> float:
        """Scale of X."""
        if self.sigma_mode == "sigma_GN":
            return math.exp((math.lgamma(1 / self.p) - math.lgamma(3 / self.p)) / 2) / self.p ** (1 / self.p)
        high = 1.0
        while _moments(self.p, self.mu, high)[2] < 1:
            high *= 2
        return _solve(lambda sigma: _moments(self.p, self.mu, sigma)[2], 1.0, 1e-8, high)

    @property
    def prob_active(self) -> float:
        """P(Y > 0), the fraction of features that are not 0. It is 1/2 where mu is 0."""
        return _moments(self.p, self.mu, self.sigma)[0]

    @property
    def mean(self) -> float:
        """Of Y."""
        return _moments(self.p, self.mu, self.sigma)[1]

    @property
    def variance(self) -> float:
        """Of Y."""
        return _moments(self.p, self.mu, self.sigma)[2]

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Independent samples of Y.

        Args:
            shape: of the result.
            generator: on the CPU.

        Returns:
            float32 of this shape, on the CPU.
        """
        return rectified_samples(shape, self.p, self.mu, self.sigma, generator)


def rectified_samples(
    shape: tuple[int, ...], p: float, mu: float, sigma: float, generator: torch.Generator
) -> torch.Tensor:
    """Samples of `RectifiedGeneralizedGaussian` by its numbers, float32 on the CPU.

    Example:
        >>> rectified_samples((2, 3), 1.0, 0.0, 0.7, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    if p == 2:
        centred = torch.randn(shape, generator=generator)
    elif p == 1:  # a difference of exponential variables
        centred = torch.empty((2, *shape)).exponential_(generator=generator).diff(dim=0)[0]
    else:  # |x|^p / p is a Gamma variable
        power = torch._standard_gamma(torch.full(shape, 1 / p), generator=generator)
        sign = torch.randint(2, shape, generator=generator) * 2 - 1
        centred = sign * (p * power).pow(1 / p)
    return (mu + sigma * centred).relu_()


def _moments(p: float, mu: float, sigma: float) -> tuple[float, float, float]:
    """P(Y > 0), mean and variance of Y (closed forms by incomplete Gamma functions)."""
    threshold = torch.tensor(abs(mu) ** p / (p * sigma**p), dtype=torch.float64)

    def upper(order: int) -> float:
        """Regularised upper incomplete Gamma function of order / p."""
        return torch.special.gammaincc(torch.tensor(order / p, dtype=torch.float64), threshold).item()

    def both_sides(order: int) -> float:
        """1 + sign(mu) * (regularised lower one): without cancellation where mu is far below 0."""
        return upper(order) if mu < 0 else 2 - upper(order)

    gammas = [math.lgamma(order / p) for order in (1, 2, 3)]
    unit = p ** (1 / p) * sigma
    active = both_sides(1)
    linear = unit * math.exp(gammas[1] - gammas[0]) * upper(2)
    square = unit**2 * math.exp(gammas[2] - gammas[0]) * both_sides(3)
    mean = (mu * active + linear) / 2
    second = (mu**2 * active + 2 * mu * linear + square) / 2
    return active / 2, mean, second - mean**2


def _bracket_of_mu(p: float, prob_active: float) -> tuple[float, float]:
    extent = 1.0
    while not _moments(p, -extent, 1.0)[0] < prob_active < _moments(p, extent, 1.0)[0]:
        extent *= 2
    return -extent, extent


def _solve(function: Callable[[float], float], value: float, low: float, high: float) -> float:
    """Where an increasing function has a value, by bisection to the last bits."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if function(middle) < value else (low, middle)
    return middle


__all__ = ["SIGMA_MODES", "RectifiedGeneralizedGaussian", "rectified_samples"]
