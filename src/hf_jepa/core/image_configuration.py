"""What the configs of all variants of images have in common: the grid of their tokens."""

from hf_jepa.core.configuration import JepaConfigMixin
from hf_jepa.core.validation import require_patches
from hf_jepa.layers.patch_embedding import pair


class ImageConfigMixin(JepaConfigMixin):
    """Token grid of images, for configs with the fields `image_size` and `patch_size`.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> IJepaConfig(image_size=[224, 448], patch_size=16).grid_size
        (14, 28)
    """

    @property
    def grid_size(self) -> tuple[int, int]:
        """(rows, columns) of the token grid at `image_size`."""
        image, patch = pair(self.image_size), pair(self.patch_size)
        return image[0] // patch[0], image[1] // patch[1]

    def validate_grid(self):
        require_patches(self, "image_size")


__all__ = ["ImageConfigMixin"]
