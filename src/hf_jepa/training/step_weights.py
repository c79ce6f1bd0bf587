"""What each batch counts in the loss of an optimizer step, where batches are uneven."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import Trainer


HIDDEN_PLACES = ("bool_masked_pos", "mask_time_indices")  # of a batch that says itself what is hidden in it


class StepWeightsMixin:
    """A `Trainer` whose loss is the mean over all samples of a step, in all processes and accumulated batches.

    Otherwise it would be the mean of the means of the batches: a batch of which some samples cannot be read, or one
    with few masked tokens, would count as much as a full one, and one that is blank (see `SkippedSamplesMixin`) would
    make the step of all others smaller. A batch that brings its masks along counts by its masked tokens, as in
    data2vec, others by their readable samples. Even batches all have the weight 1.
    """

    _weights: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(())  # of the batches that come
    _weight = _count = None  # of the batch that is trained on: what it counts, and with those of all processes

    def get_batch_samples(self: Trainer, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        processes = self.args.world_size
        if len(batches) * processes > 1:
            own = torch.stack([torch.zeros((), device=device) + self._rows_that_count(batch) for batch in batches])
            everywhere = self.accelerator.reduce(own) if processes > 1 else own
            weights = own * (len(batches) * processes) / everywhere.sum().clamp(min=1)
            self._weights = zip(weights, everywhere, strict=True)
        return batches, items

    def training_step(self: Trainer, model, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        self._weight, self._count = next(self._weights, (None, None))
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._weight = self._count = None

    def compute_loss(self: Trainer, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        loss = loss if self._weight is None else loss * self._weight
        return (loss, outputs) if return_outputs else loss

    def others_have_rows(self) -> bool:
        """Whether another process has samples, where this one has none."""
        return self._count is not None and bool(self._count > 0)  # read on the host: this is rare

    def _rows_that_count(self, batch: dict[str, Any]) -> int | torch.Tensor:
        """What a batch counts: 0 if it is blank; on the device where the batch does not say."""
        readable = self.readable_samples(batch)
        hidden = [batch[name] for name in HIDDEN_PLACES if name in batch]
        if not readable or not hidden:
            return readable
        padding = batch.get("attention_mask")
        return (hidden[0] if padding is None else hidden[0] & padding.bool()).sum()


__all__ = ["StepWeightsMixin"]
