"""The views of a pretraining run whose recipe compares views of an image."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_jepa.data.view_augmentation import ViewAugmentation
from hf_jepa.data.views import MultiCrop


PER_VIEW = "one number, or one per view, global ones first"


@dataclass
class ViewArguments:
    """Crops and augmentation of views, see `MultiCrop` and `ViewAugmentation`; the defaults are LeJEPA's on ImageNet.

    Global views have the image size of the model.

    Example:
        >>> from hf_jepa.training.recipe import parse_recipe
        >>> (views,) = parse_recipe([ViewArguments], ["--num_local_views", "0", "--blur_probability", "1.0", "0.1"])
        >>> views.num_views, views.blur_probability
        (2, [1.0, 0.1])
    """

    num_global_views: int = field(default=2, metadata={"help": "Views that show much of the image."})
    global_scale: list[float] = field(default_factory=lambda: [0.3, 1.0], metadata={"help": "Area of a global view."})
    num_local_views: int = field(default=6, metadata={"help": "Smaller views that show little of the image."})
    local_size: int = field(default=98, metadata={"help": "Side of a local view in pixels."})
    local_scale: list[float] = field(default_factory=lambda: [0.05, 0.3], metadata={"help": "Area of a local view."})
    flip_probability: list[float] = field(
        default_factory=lambda: [0.5], metadata={"help": f"Of mirroring; {PER_VIEW}."}
    )
    color_jitter: list[float] = field(
        default_factory=lambda: [0.4, 0.4, 0.2, 0.1],
        metadata={"help": "Strength of brightness, contrast, saturation and hue."},
    )
    color_jitter_probability: list[float] = field(
        default_factory=lambda: [0.8], metadata={"help": f"Of the colour jitter; {PER_VIEW}."}
    )
    grayscale_probability: list[float] = field(
        default_factory=lambda: [0.2], metadata={"help": f"Of taking the colours away; {PER_VIEW}."}
    )
    blur_probability: list[float] = field(
        default_factory=lambda: [0.5], metadata={"help": f"Of a Gaussian blur; {PER_VIEW}."}
    )
    blur_sigma: list[float] = field(
        default_factory=lambda: [0.1, 2.0], metadata={"help": "Standard deviation of the blur in pixels."}
    )
    solarize_probability: list[float] = field(
        default_factory=lambda: [0.2], metadata={"help": f"Of inverting what is bright; {PER_VIEW}."}
    )

    @property
    def num_views(self) -> int:
        return self.num_global_views + self.num_local_views

    def transform(self, image_size: int | Sequence[int]) -> MultiCrop:
        """What the data set does to an image: its crops.

        Args:
            image_size: of the model in pixels, an int or (height, width).
        """
        return MultiCrop(
            image_size,
            num_global=self.num_global_views,
            global_scale=tuple(self.global_scale),
            local_size=self.local_size,
            num_local=self.num_local_views,
            local_scale=tuple(self.local_scale),
        )

    def augmentation(self, mean: Sequence[float] | None, std: Sequence[float] | None, seed: int) -> ViewAugmentation:
        """What the trainer does to a batch on the device.

        Args:
            mean, std: of the processor; None, every view is standardised on its own (the embedded pictures).
            seed: of all random numbers.

        Raises:
            ValueError: see `ViewAugmentation`; also probabilities for another number of views.
        """
        probabilities = ("flip", "color_jitter", "grayscale", "blur", "solarize")
        settings = {f"{name}_probability": getattr(self, f"{name}_probability") for name in probabilities}
        for name, values in settings.items():
            if len(values) not in (1, self.num_views):
                raise ValueError(f"{name}={values}: give one number, or one for each of the {self.num_views} views")
        settings |= {"color_jitter": self.color_jitter, "blur_sigma": self.blur_sigma}
        return ViewAugmentation(**settings, mean=mean, std=std, seed=seed)


__all__ = ["ViewArguments"]
