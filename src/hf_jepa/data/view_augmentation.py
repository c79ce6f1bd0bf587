"""Augmentation of views: whole batches at once on their device, every view by random numbers of its own."""

from collections.abc import Sequence

import torch
from torch import nn

from hf_jepa.data.device_rng import uniform
from hf_jepa.data.embedded import STD_FLOOR
from hf_jepa.data.pixel_operations import enhance, gaussian_blur, shift_hue, solarize, to_grey
from hf_jepa.data.transforms import IMAGENET_MEAN, IMAGENET_STD


# What each operation draws, as the last integer that names its random numbers.
DRAWS = {"flip": 0, "jitter": 1, "factors": slice(2, 6), "order": slice(6, 10), "grey": 10, "blur": 11, "sigma": 12}
DRAWS |= {"solarize": 13}
NUM_DRAWS = 14
HUE = 3  # place of the hue among brightness, contrast, saturation and hue


class ViewAugmentation(nn.Module):
    """Mirror, colour jitter, grey, blur, solarise, normalise, in this order, each decided anew for every view.

    Every decision and strength is a function of (seed, epoch, sample index, view, operation): batch size, workers,
    ranks and resuming change nothing, and the probability of one operation does not change what another draws. A batch
    is augmented without a loop over its samples, in float32, and without reading from the device.

    Jitter draws factors of brightness, contrast and saturation uniformly from 1 +- strength (at least 0), a shift of
    the hue from +- strength, and applies the four in random order. Solarising inverts values of 128 / 255 and above.
    The defaults are those of LeJEPA on ImageNet (2511.08544; its README).

    Args:
        flip_probability: of mirroring. This and every other probability is one number for all views, or one number per
            view, global views first: BYOL (2006.07733) and VICReg (2105.04906) blur and solarise their two views
            differently.
        color_jitter: strengths of brightness, contrast, saturation and hue; the last at most 0.5.
        color_jitter_probability: of the four.
        grayscale_probability: of taking the colours away.
        blur_probability: of a Gaussian blur.
        blur_sigma: smallest and largest standard deviation in pixels. The kernel reaches 3 times the largest.
        solarize_probability: of inverting what is bright.
        mean, std: of the normalisation, per channel or one for all. With None instead of both, every view is brought
            to mean 0 and standard deviation 1 on its own, which is how the embedded pictures are judged.
        seed: of all random numbers.

    Raises:
        ValueError: a probability outside [0, 1], a strength that is negative or has no meaning; when called, pixels of
            another shape, or probabilities for another number of views.

    Example:
        >>> augment = ViewAugmentation(blur_probability=(1.0, 0.1), solarize_probability=(0.0, 0.2))
        >>> views = torch.randint(0, 256, (4, 2, 3, 32, 32), dtype=torch.uint8)
        >>> augment(views, sample_index=torch.arange(4), epoch=0).shape
        torch.Size([4, 2, 3, 32, 32])
    """

    def __init__(
        self,
        *,
        flip_probability: float | Sequence[float] = 0.5,
        color_jitter: Sequence[float] = (0.4, 0.4, 0.2, 0.1),
        color_jitter_probability: float | Sequence[float] = 0.8,
        grayscale_probability: float | Sequence[float] = 0.2,
        blur_probability: float | Sequence[float] = 0.5,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        solarize_probability: float | Sequence[float] = 0.2,
        mean: Sequence[float] | None = IMAGENET_MEAN,
        std: Sequence[float] | None = IMAGENET_STD,
        seed: int = 0,
    ):
        super().__init__()
        if len(color_jitter) != 4 or min(color_jitter) < 0 or color_jitter[HUE] > 0.5:
            raise ValueError(
                "color_jitter must be the strengths of brightness, contrast, saturation and hue, none below 0 and the "
                f"last at most 0.5 (half the colour circle), got {color_jitter}"
            )
        if len(blur_sigma) != 2 or not 0 < blur_sigma[0] <= blur_sigma[1]:
            raise ValueError(f"blur_sigma must be (low, high) with 0 < low <= high, got {blur_sigma}")
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std go together: give both or neither, got mean={mean} and std={std}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self.color_jitter, self.blur_sigma, self.seed = tuple(color_jitter), tuple(blur_sigma), seed
        self.blur_radius = max(1, round(3 * blur_sigma[1]))
        probabilities = {
            "flip": flip_probability,
            "jitter": color_jitter_probability if any(color_jitter) else 0.0,
            "grey": grayscale_probability,
            "blur": blur_probability,
            "solarize": solarize_probability,
        }
        self.probabilities = {name: _probabilities(name, value) for name, value in probabilities.items()}
        for name, values in self.probabilities.items():
            self._constant(f"{name}_probability", values)
        self._constant("jitter_low", [max(0.0, 1 - width) for width in color_jitter[:HUE]] + [-color_jitter[HUE]])
        self._constant("jitter_high", [1 + width for width in color_jitter[:HUE]] + [color_jitter[HUE]])
        self.standardize = mean is None
        if mean is not None and std is not None:
            self._constant("mean", mean)
            self._constant("std", std)

    def _constant(self, name: str, values: Sequence[float]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def forward(
        self, pixel_values: torch.Tensor | Sequence[torch.Tensor], sample_index: torch.Tensor, epoch: int
    ) -> torch.Tensor | list[torch.Tensor]:
        """Augment a batch.

        Args:
            pixel_values: (B, V, 3, H, W), uint8 or floats in [0, 1], or a list of such groups, global views first.
            sample_index: int64 (B,), on any device.
            epoch: from 0.

        Returns:
            float32 tensors of the same shapes: a list where a list was given.
        """
        groups = [pixel_values] if isinstance(pixel_values, torch.Tensor) else list(pixel_values)
        for group in groups:
            if group.ndim != 5 or group.shape[2] != 3 or len(group) != len(sample_index):
                raise ValueError(
                    f"views must be (B, V, 3, H, W) with one sample index each, got {tuple(group.shape)} and "
                    f"{len(sample_index)} indices"
                )
        num_views = sum(group.shape[1] for group in groups)
        for name, values in self.probabilities.items():
            if len(values) not in (1, num_views):
                raise ValueError(f"{len(values)} probabilities of {name} for {num_views} views: give 1 or {num_views}")
        device = groups[0].device
        sample = sample_index.to(device, non_blocking=True).view(-1, 1, 1)
        view = torch.arange(num_views, device=device).view(-1, 1)
        draw = torch.arange(NUM_DRAWS, device=device)
        draws = uniform(self.seed, epoch, sample, view, draw, device=device)  # (B, V, NUM_DRAWS)
        parts = draws.split([group.shape[1] for group in groups], dim=1)
        first, augmented = 0, []
        for group, part in zip(groups, parts, strict=True):
            augmented.append(self._augment(group, part, first))
            first += group.shape[1]
        return augmented[0] if isinstance(pixel_values, torch.Tensor) else augmented

    def _augment(self, pixels: torch.Tensor, draws: torch.Tensor, first: int) -> torch.Tensor:
        """A group whose first view is number `first`, by the random numbers (B, V, NUM_DRAWS) of its views."""
        pixels = pixels.to(torch.float32) / 255 if pixels.dtype == torch.uint8 else pixels.to(torch.float32)

        def chosen(name: str) -> torch.Tensor:  # (B, V, 1, 1, 1)
            limits = getattr(self, f"{name}_probability")
            limits = limits if len(limits) == 1 else limits[first : first + draws.shape[1]]
            return _strength(draws[..., DRAWS[name]] < limits)

        def possible(name: str) -> bool:
            return any(self.probabilities[name])

        if possible("flip"):
            pixels = torch.where(chosen("flip"), pixels.flip(-1), pixels)
        if possible("jitter"):
            pixels = self._jitter(pixels, chosen("jitter"), draws)
        if possible("grey"):
            pixels = torch.where(chosen("grey"), to_grey(pixels), pixels)
        if possible("blur"):
            low, high = self.blur_sigma
            sigma = _strength(low + draws[..., DRAWS["sigma"]] * (high - low))
            pixels = torch.where(chosen("blur"), gaussian_blur(pixels, sigma, self.blur_radius), pixels)
        if possible("solarize"):
            pixels = torch.where(chosen("solarize"), solarize(pixels), pixels)
        if self.standardize:
            deviation, mean = torch.std_mean(pixels, dim=(-3, -2, -1), correction=0, keepdim=True)
            return (pixels - mean) / (deviation + STD_FLOOR)
        return (pixels - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def _jitter(self, pixels: torch.Tensor, chosen: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Brightness, contrast, saturation and hue, in an order of its own for every view.

        Shifting the hue takes as long as the others together, so it is done once: first come up to three of the
        others, for each view those that precede its hue, then the hue, then the rest. Factor 1 skips a view.
        """
        factors = self.jitter_low + draws[..., DRAWS["factors"]] * (self.jitter_high - self.jitter_low)  # (B, V, 4)
        kinds = range(4) if self.color_jitter[HUE] else range(HUE)
        order = draws[..., DRAWS["order"]][..., : len(kinds)].argsort(-1)  # which comes first, second, ...
        ordered = factors.gather(-1, order)

        def enhanced(pixels: torch.Tensor, rank: int, acts: torch.Tensor) -> torch.Tensor:
            factor = torch.where(acts, _strength(ordered[..., rank]), 1.0)
            return enhance(pixels, _strength(order[..., rank]), factor)

        if HUE not in kinds:
            for rank in kinds:
                pixels = enhanced(pixels, rank, chosen)
            return pixels
        hue_rank = _strength((order == HUE).int().argmax(-1))
        for rank in kinds[:-1]:
            pixels = enhanced(pixels, rank, chosen & (rank < hue_rank))
        pixels = torch.where(chosen, shift_hue(pixels, _strength(factors[..., HUE])), pixels)
        for rank in kinds[1:]:
            pixels = enhanced(pixels, rank, chosen & (rank > hue_rank))
        return pixels


def _strength(per_view: torch.Tensor) -> torch.Tensor:
    """(B, V) as (B, V, 1, 1, 1), which goes with pixels."""
    return per_view[..., None, None, None]


def _probabilities(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    values = (float(value),) if isinstance(value, (int, float)) else tuple(map(float, value))
    if not values or any(not 0 <= one <= 1 for one in values):
        raise ValueError(f"the probability of {name} must be in [0, 1], one number or one per view, got {value}")
    return values


__all__ = ["ViewAugmentation"]
