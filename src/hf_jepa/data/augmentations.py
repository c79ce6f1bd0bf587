"""Optional augmentations of the official I-JEPA code, all off by default: I-JEPA learns without them.

As all transforms they are called as `transform(image, rng)` and take every random number from `rng`.
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter


class RandomHorizontalFlip:
    """Mirror the image with probability `p`.

    Example:
        >>> from PIL import Image
        >>> from hf_jepa.data.transforms import sample_rng
        >>> RandomHorizontalFlip(0.5)(Image.new("RGB", (3, 2)), sample_rng(0, 0, 0)).size
        (3, 2)
    """

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < self.p else image


class RandomColorDistortion:
    """Jitter of brightness, contrast, saturation and hue in random order (p = 0.8), then grey (p = 0.2).

    As in SimCLR (2002.05709, appendix A) and as the optional switch of the official I-JEPA code.

    Args:
        strength: s in factors drawn from 1 +- 0.8 s and a hue shift from +- 0.2 s of the colour circle.

    Raises:
        ValueError: strength outside (0, 2.5]; above, the hue shift would pass half the circle.

    Example:
        >>> from PIL import Image
        >>> from hf_jepa.data.transforms import sample_rng
        >>> RandomColorDistortion(0.5)(Image.new("RGB", (3, 2), "red"), sample_rng(0, 0, 0)).mode
        'RGB'
    """

    def __init__(self, strength: float):
        if not 0 < strength <= 2.5:
            raise ValueError(f"strength of the colour distortion must be in (0, 2.5], got {strength}")
        self.strength = strength

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() < 0.8:
            spread = 0.8 * self.strength
            factors = rng.uniform(max(0.0, 1 - spread), 1 + spread, size=3)
            hue = rng.uniform(-0.2 * self.strength, 0.2 * self.strength)
            enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for step in rng.permutation(4):
                image = enhancers[step](image).enhance(factors[step]) if step < 3 else _shift_hue(image, hue)
        return image.convert("L").convert("RGB") if rng.random() < 0.2 else image


def _shift_hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shift = round(turn * 256)
    hue = hue.point([(h + shift) % 256 for h in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


class RandomGaussianBlur:
    """Blur with probability `p`, radius uniform in `radius` pixels.

    Example:
        >>> from PIL import Image
        >>> from hf_jepa.data.transforms import sample_rng
        >>> RandomGaussianBlur()(Image.new("RGB", (3, 2)), sample_rng(0, 0, 0)).size
        (3, 2)
    """

    def __init__(self, p: float = 0.5, radius: tuple[float, float] = (0.1, 2.0)):
        self.p, self.radius = p, radius

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() >= self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(*self.radius)))


__all__ = ["RandomColorDistortion", "RandomGaussianBlur", "RandomHorizontalFlip"]
