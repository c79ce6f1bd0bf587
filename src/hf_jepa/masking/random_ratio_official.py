"""The official I-JEPA code's second sampler: a random share of all tokens is the target, the rest the context."""

from dataclasses import dataclass

import torch

from hf_jepa.masking.masks import Masks, batch_indices


@dataclass(frozen=True)
class OfficialRandomRatioMaskSampler:
    """Random token masks as the official I-JEPA code draws them (`src/masks/random.py`); the indices are not sorted.

    Args:
        num_tokens: tokens of an image.
        ratio: range of the share of tokens that are the target.

    Raises:
        ValueError: the range leaves no context or no target token.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> masks = OfficialRandomRatioMaskSampler(196)(torch.arange(2), step=0)
        >>> masks.context_mask[0].shape, masks.target_mask[0].shape
        (torch.Size([2, 98]), torch.Size([2, 98]))
    """

    num_tokens: int
    ratio: tuple[float, float] = (0.4, 0.6)

    def __post_init__(self):
        low, high = self.ratio
        fewest, most = int(self.num_tokens * (1 - high)), int(self.num_tokens * (1 - low))
        if not (0 <= low <= high <= 1 and 0 < fewest <= most < self.num_tokens):
            raise ValueError(
                f"ratio {self.ratio} of {self.num_tokens} tokens leaves {fewest} to {most} context tokens: "
                f"choose a range inside (0, 1) that leaves 1 to {self.num_tokens - 1}"
            )

    def __call__(self, sample_index: torch.Tensor, *, step: int, epoch: int = 0) -> Masks:
        """Draw one context and one target per image; the share from `step`, the tokens from the global generator.

        Args:
            sample_index: LongTensor (B,); only its length is used.
            step: the official collator's counter, 0 for the first batch.
            epoch: not used.
        """
        generator = torch.Generator().manual_seed(step)
        low, high = self.ratio
        ratio = low + torch.rand(1, generator=generator).item() * (high - low)
        num_context = int(self.num_tokens * (1.0 - ratio))
        order = torch.stack([torch.randperm(self.num_tokens) for _ in batch_indices(sample_index)])  # (B, N)
        return Masks([order[:, :num_context].contiguous()], [order[:, num_context:].contiguous()])


__all__ = ["OfficialRandomRatioMaskSampler"]
