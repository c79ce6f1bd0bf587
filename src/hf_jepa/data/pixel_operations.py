"""Image operations on batches of pixels, each picture with a strength of its own; none of them waits for the device.

Pixels are float32 in [0, 1], (..., 3, H, W); strengths have the same leading dimensions and then three of size 1.
Definitions are those of Pillow's `ImageEnhance`, `ImageFilter.GaussianBlur` and `ImageOps.solarize` and of a shift of
hue in HSV, without the rounding to 8 bits after each of them.
"""

import torch
from torch.nn import functional as F


GREY_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue in Pillow's mode "L" (ITU-R BT.601)
SOLARIZE_THRESHOLD = 128 / 255


def to_grey(pixels: torch.Tensor) -> torch.Tensor:
    """Luma, (..., 1, H, W).

    Example:
        >>> to_grey(torch.ones(3, 2, 2)).shape
        torch.Size([1, 2, 2])
    """
    red, green, blue = pixels.unbind(-3)
    weights = GREY_WEIGHTS
    return (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2]).unsqueeze(-3)


def enhance(pixels: torch.Tensor, kind: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Scale the distance from black (brightness), from the mean grey (contrast) or from grey (saturation).

    Args:
        pixels: (..., 3, H, W).
        kind: int64 (..., 1, 1, 1), 0 for brightness, 1 for contrast, 2 for saturation; others only with factor 1.
        factor: (..., 1, 1, 1); with 1 a picture stays exactly as it is.

    Example:
        >>> half = torch.full((3, 2, 2), 0.5)
        >>> enhance(half, torch.zeros(1, 1, 1).long(), torch.full((1, 1, 1), 1.5))[0, 0]
        tensor([0.7500, 0.7500])
    """
    grey = to_grey(pixels)
    reference = torch.where(kind == 2, grey, grey.mean((-2, -1), keepdim=True) * (kind == 1))  # (..., 1, H, W)
    return torch.lerp(reference, pixels, factor).clamp_(0.0, 1.0)


def shift_hue(pixels: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Turn the colour circle of HSV; value and saturation stay.

    Args:
        pixels: (..., 3, H, W).
        turn: (..., 1, 1, 1) parts of a full turn; 1/3 makes red green.

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
        >>> shift_hue(red, torch.full((1, 1, 1), 1 / 3)).flatten().round().tolist()
        [0.0, 1.0, 0.0]
    """
    red, green, blue = pixels.split(1, dim=-3)
    value = pixels.amax(-3, keepdim=True)
    chroma = value - pixels.amin(-3, keepdim=True)
    divisor = torch.where(chroma == 0, 1.0, chroma)  # greys have no hue; any will do, as it is multiplied by 0
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    # Each channel is a trapezoid of the angle, in sixths of a turn: 120 degrees apart, full for two sixths.
    start = 5 - 2 * torch.arange(3, device=pixels.device).view(3, 1, 1)
    angle = (hue + 6 * turn + start).remainder_(6)
    return value - chroma * torch.minimum(angle, 4 - angle).clamp_(0.0, 1.0)


def gaussian_blur(pixels: torch.Tensor, sigma: torch.Tensor, radius: int) -> torch.Tensor:
    """Gaussian blur, one axis after the other; edges are repeated.

    Args:
        pixels: (..., 3, H, W).
        sigma: (..., 1, 1, 1) standard deviation in pixels, above 0.
        radius: the kernel has 2 * radius + 1 pixels, and weights that add up to 1.

    Example:
        >>> point = torch.zeros(3, 5, 5)
        >>> point[:, 2, 2] = 1
        >>> round(gaussian_blur(point, torch.ones(1, 1, 1), radius=2).sum().item(), 4)
        3.0
    """
    offset = torch.arange(radius + 1, device=pixels.device)
    weights = torch.exp(-0.5 * (offset / sigma).square())  # (..., 1, 1, radius + 1)
    weights = torch.where(weights < 1e-12, 0.0, weights)  # denormal numbers are slow, and nothing beside 1
    weights = weights / (2 * weights.sum(-1, keepdim=True) - 1)  # the middle counts once
    flat = pixels.flatten(0, -4) if pixels.ndim > 3 else pixels.unsqueeze(0)  # what `pad` takes
    weights = weights.reshape(-1, 1, 1, radius + 1)
    for axis, padding in ((-1, (radius, radius, 0, 0)), (-2, (0, 0, radius, radius))):
        size = flat.shape[axis]
        padded = F.pad(flat, padding, mode="replicate")
        # Shifted copies rather than a convolution of one group per picture: half the time on a CPU.
        flat = padded.narrow(axis, radius, size) * weights[..., :1]
        for k in range(1, radius + 1):
            pair = padded.narrow(axis, radius - k, size) + padded.narrow(axis, radius + k, size)
            flat.addcmul_(pair, weights[..., k : k + 1])
    return flat.view(pixels.shape)


def solarize(pixels: torch.Tensor) -> torch.Tensor:
    """Invert values of 128 / 255 and above.

    Example:
        >>> solarize(torch.tensor([0.25, 0.75]))
        tensor([0.2500, 0.2500])
    """
    return torch.where(pixels >= SOLARIZE_THRESHOLD, 1 - pixels, pixels)


__all__ = ["GREY_WEIGHTS", "SOLARIZE_THRESHOLD", "enhance", "gaussian_blur", "shift_hue", "solarize", "to_grey"]
