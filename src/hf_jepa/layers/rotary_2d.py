"""Rotary position codes for the patches of an image, by where their centres lie between its edges.

Places are fractions of the image, not numbers of patches, so images of other sizes cover the same range of angles; and
while training the whole grid can be moved and stretched at random.
"""

import math

import torch


def patch_centres(grid_size: tuple[int, int], device: torch.device | str | None = None) -> torch.Tensor:
    """Where the centres of patches lie, from -1 (top, left edge) to 1 (bottom, right edge).

    Args:
        grid_size: (rows, columns).
        device: of the result.

    Returns:
        float32 (rows * columns, 2), row-major: vertical, horizontal place.

    Example:
        >>> patch_centres((1, 2)).tolist()
        [[0.0, -0.5], [0.0, 0.5]]
    """
    places = [
        2.0 * (torch.arange(count, dtype=torch.float32, device=device) + 0.5) / count - 1.0 for count in grid_size
    ]
    return torch.cartesian_prod(*places)


def perturb_centres(
    centres: torch.Tensor, shift: float | None = None, jitter: float | None = None, rescale: float | None = None
) -> torch.Tensor:
    """Move and stretch a grid at random, all patches of the batch alike, so that a model meets other scales.

    Numbers are drawn from torch's generator of the device, as those of dropout are.

    Args:
        centres: (N, 2) from `patch_centres`.
        shift: each axis is moved by a number from [-shift, shift].
        jitter: each axis is stretched by a factor from [1 / jitter, jitter], log-uniform.
        rescale: both axes are stretched by one such factor.

    Returns:
        (N, 2)

    Example:
        >>> stretched = perturb_centres(patch_centres((4, 4)), rescale=2.0)
        >>> bool(0.5 <= stretched[0, 0] / -0.75 <= 2.0)
        True
    """
    if shift is not None:
        centres = centres + centres.new_empty(1, 2).uniform_(-shift, shift)
    if jitter is not None:
        centres = centres * centres.new_empty(1, 2).uniform_(-math.log(jitter), math.log(jitter)).exp()
    if rescale is not None:
        centres = centres * centres.new_empty(1).uniform_(-math.log(rescale), math.log(rescale)).exp()
    return centres


def rotary_tables_2d(
    centres: torch.Tensor, head_dim: int, theta: float, prefix: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines for `rotate_halves`, in float32, once for all layers and heads of a forward.

    Angles are `2 pi * place * theta^(-4 k / d)` with k = 0 ... d / 4 - 1, those of the vertical place in the first
    quarter of a head's d channels, those of the horizontal one in the second, and both again in the other half.

    Args:
        centres: (N, 2), from `patch_centres`.
        head_dim: channels d of a head.
        theta: base of the frequencies.
        prefix: tokens before the patches, such as a CLS token, which do not turn.

    Returns:
        cos, sin: float32 (prefix + N, d); sin is negative in the first half.

    Raises:
        ValueError: heads that do not divide into four.

    Example:
        >>> cos, sin = rotary_tables_2d(patch_centres((2, 2)), 8, theta=100.0, prefix=1)
        >>> cos.shape, cos[0].eq(1).all().item(), sin[0].any().item()
        (torch.Size([5, 8]), True, False)
    """
    if head_dim < 4 or head_dim % 4:
        raise ValueError(f"heads of {head_dim} channels: rotary codes of two axes need a multiple of 4")
    exponents = torch.arange(head_dim // 4, dtype=torch.float32, device=centres.device) / (head_dim / 4)
    angles = (2.0 * math.pi * centres.float().unsqueeze(-1) / theta**exponents).flatten(1)  # (N, d / 2)
    angles = torch.nn.functional.pad(angles, (0, 0, prefix, 0))  # what does not turn: angle 0
    sines = angles.sin()
    return angles.cos().repeat(1, 2), torch.cat([-sines, sines], dim=-1)


def rotate_halves(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn queries or keys by the angles of their tokens; channel i goes with channel i + d / 2.

    Args:
        x: (B, H, N, d)
        cos, sin: (N, d) from `rotary_tables_2d`.

    Returns:
        (B, H, N, d) in the type of x; the arithmetic is float32 at least.

    Example:
        >>> x = torch.randn(1, 2, 4, 8)
        >>> turned = rotate_halves(x, *rotary_tables_2d(patch_centres((2, 2)), 8, theta=100.0))
        >>> torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-6)
        True
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


__all__ = ["patch_centres", "perturb_centres", "rotary_tables_2d", "rotate_halves"]
