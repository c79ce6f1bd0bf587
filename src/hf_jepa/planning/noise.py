"""Where the random numbers of a plan come from: generators, or a record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RecordedNoise:
    """Numbers that were drawn before, in place of a generator.

    Args:
        normals: (I, B, S, H, P) standard normal numbers, by iteration, environment, candidate, planned step and axis.
        uniforms: (I, B, ...) uniform numbers in [0, 1), for planners that draw such; None where none does.

    Example:
        >>> RecordedNoise(torch.randn(20, 1, 200, 8, 2)).normal(3, 1, 200, 8, 2).shape
        torch.Size([1, 200, 8, 2])
    """

    normals: torch.Tensor
    uniforms: torch.Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "RecordedNoise":
        """As `Tensor.to`, of both."""
        uniforms = None if self.uniforms is None else self.uniforms.to(device, dtype)
        return RecordedNoise(self.normals.to(device, dtype), uniforms)

    def normal(self, iteration: int, *shape: int, active: Sequence[bool] | None = None) -> torch.Tensor:
        return _recorded(self.normals, "normals", iteration, shape)

    def uniform(self, iteration: int, *shape: int, active: Sequence[bool] | None = None) -> torch.Tensor:
        if self.uniforms is None:
            raise ValueError(
                "this planner draws uniform numbers, and the record has none: give RecordedNoise uniforms="
            )
        return _recorded(self.uniforms, "uniforms", iteration, shape)


def _recorded(numbers: torch.Tensor, name: str, iteration: int, shape: tuple[int, ...]) -> torch.Tensor:
    if iteration >= len(numbers) or tuple(numbers.shape[1:]) != shape:
        raise ValueError(f"recorded {name} of shape {tuple(numbers.shape)}: iteration {iteration} needs {shape}")
    return numbers[iteration]


class GeneratedNoise:
    """Numbers of one generator for all environments, or of one for each.

    With one for each, what an environment gets does not depend on the others: a batch of environments is a loop over
    them. Numbers are drawn on the device of the generator and moved.

    Args:
        generator: one, or B of them.
        num_environments: B.
        device, dtype: of what is returned.

    Raises:
        ValueError: generators that are not B.

    Example:
        >>> generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        >>> both = GeneratedNoise(generators, 2, "cpu", torch.float32).normal(0, 2, 5, 8, 3)
        >>> second = GeneratedNoise(torch.Generator().manual_seed(1), 1, "cpu", torch.float32).normal(0, 1, 5, 8, 3)
        >>> torch.equal(both[1:], second)
        True
    """

    def __init__(
        self,
        generator: torch.Generator | Sequence[torch.Generator],
        num_environments: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ):
        self.generators = None if isinstance(generator, torch.Generator) else list(generator)
        self.generator = generator if self.generators is None else None
        if self.generators is not None and len(self.generators) != num_environments:
            raise ValueError(
                f"{len(self.generators)} generators for {num_environments} environments: give one or each"
            )
        self.device, self.dtype = device, dtype

    def normal(self, iteration: int, *shape: int, active: Sequence[bool] | None = None) -> torch.Tensor:
        """Standard normal numbers (B, ...); zeros in environments that search no more and have their own generator."""
        return self._draw(torch.randn, shape, active)

    def uniform(self, iteration: int, *shape: int, active: Sequence[bool] | None = None) -> torch.Tensor:
        """As `normal`, uniform in [0, 1)."""
        return self._draw(torch.rand, shape, active)

    def _draw(self, draw: Callable, shape: tuple[int, ...], active: Sequence[bool] | None) -> torch.Tensor:
        if self.generators is None:
            drawn = draw(shape, generator=self.generator, device=self.generator.device, dtype=self.dtype)
            return drawn.to(self.device)
        rows = []
        for index, generator in enumerate(self.generators):
            if active is None or active[index]:
                row = draw(shape[1:], generator=generator, device=generator.device, dtype=self.dtype)
            else:  # a loop over the environments would not draw for it either
                row = torch.zeros(shape[1:], dtype=self.dtype)
            rows.append(row.to(self.device))
        return torch.stack(rows)


def color_noise(white: torch.Tensor, exponent: float) -> torch.Tensor:
    """Noise whose power falls with frequency along the steps of a plan: smooth candidates instead of trembling ones.

    Args:
        white: (..., H, P) standard normal numbers, independent.
        exponent: beta, power is proportional to 1 / frequency^beta; 0 leaves the noise as it is, 1 is pink, 2 is red.

    Returns:
        (..., H, P), each number still of variance 1. The constant part counts as the lowest frequency, as in Pinneri
        et al. (2008.06389, section 3.1).

    Example:
        >>> white = torch.randn(1000, 30, 1, generator=torch.Generator().manual_seed(0))
        >>> red = color_noise(white, 2.0)
        >>> bool(red.diff(dim=-2).std() < 0.5 * white.diff(dim=-2).std()), round(red.std().item(), 1)
        (True, 1.0)
    """
    steps = white.shape[-2]
    if not exponent or steps == 1:
        return white
    frequencies = torch.fft.rfftfreq(steps, dtype=white.dtype, device=white.device)
    scale = frequencies.clamp(min=1 / steps) ** (-exponent / 2)
    every = torch.cat([scale, scale[1 : (steps + 1) // 2]])  # those of negative frequencies, too
    scale = scale / every.square().mean().sqrt()
    return torch.fft.irfft(torch.fft.rfft(white, dim=-2) * scale[:, None], n=steps, dim=-2)


__all__ = ["GeneratedNoise", "RecordedNoise", "color_noise"]
