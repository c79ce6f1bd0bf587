"""The images or clips that a run could not read: named once, counted over all processes."""

from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import IterableDataset
from transformers import Trainer
from transformers.utils import logging

from hf_jepa.core.clips import as_groups
from hf_jepa.losses.distributed import without_rows


logger = logging.get_logger(__name__)

GIVE_UP = 20  # unreadable samples before the first readable one


class SkippedSamplesMixin:
    """A `Trainer` for batches of `ImageCollator` or `VideoCollator`, which name what is missing from them.

    A batch of which nothing can be read weighs nothing: the model sees blank pixels, because all processes must take
    part in every step, and the loss is multiplied by zero. So does what is left of a larger batch where that are fewer
    samples than the model can compare (`fewest_samples`). In losses over the batch of all processes such rows are not
    seen (`without_rows`).

    Attributes:
        samples: what the batches are of: "images", "clips".
        skipped: "path: reason" of every image or clip, in order of appearance.

    Raises:
        ValueError: the first 20 samples cannot be read, or none of a short run, so that the data is wrong rather than
            a few files.
    """

    samples = "images"

    def __init__(self, *args: Any, **kwargs: Any):
        self.skipped: dict[str, None] = {}
        self._found_readable = self._batch_is_blank = self._measuring = False
        self._unreadable = 0  # training samples, also the same file again and again
        if isinstance(kwargs.get("train_dataset"), IterableDataset):
            # Every process reads the stream itself: the first one could not send the names of skipped samples.
            kwargs["args"].accelerator_config.dispatch_batches = False
        super().__init__(*args, **kwargs)

    def take_skipped(self, inputs: dict[str, Any], kept: bool = False) -> dict[str, Any]:
        """A batch without its entry "skipped", of which note is taken; an empty batch becomes blank rows.

        Args:
            inputs: from `ImageCollator`, or from `VideoCollator`, of one group or a list of groups.
            kept: whether unreadable samples still have rows, see `keep_unreadable` there.
        """
        inputs = dict(inputs)
        unreadable = inputs.pop("skipped", ())
        for file in unreadable:
            if file not in self.skipped:
                logger.warning(f"skipped one of the {self.samples}: {file}")
                self.skipped[file] = None
        rows = sum(len(index) for index in as_groups(inputs["sample_index"]))
        readable = rows - (len(unreadable) if kept else 0)
        self._batch_is_blank = not self._enough(readable)
        if not self._measuring:  # what evaluation can read has taught nothing
            self._found_readable |= readable > 0
            self._unreadable += len(unreadable)
            if not self._found_readable and self._unreadable >= GIVE_UP:
                raise ValueError(self._nothing_readable())
        if rows > 0 and not (self._batch_is_blank and readable):
            return inputs
        if not isinstance(inputs["sample_index"], torch.Tensor):  # groups of clips, of which one is enough
            inputs = {name: value[0] for name, value in inputs.items()}
        return {name: _blank(value) for name, value in inputs.items()}

    def readable_samples(self, batch: dict[str, Any]) -> int:
        """Samples of a batch, which has no rows of others; 0 where they are too few to be compared."""
        readable = sum(len(index) for index in as_groups(batch["sample_index"]))
        return readable if self._enough(readable) else 0

    def _enough(self, readable: int) -> bool:
        size = self.args.eval_batch_size if self._measuring else self.args.train_batch_size
        fewest = getattr(self.model, "fewest_samples", 1)
        return readable > 0 and not readable < fewest <= size

    def others_have_rows(self) -> bool:
        """Whether another process has samples, where this one has none."""
        return False

    def evaluation_loop(self, *args: Any, **kwargs: Any):
        self._measuring = True
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            self._measuring = False

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        if not self._batch_is_blank:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with without_rows() if self.others_have_rows() else nullcontext():
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        return (0.0 * loss, outputs) if return_outputs else 0.0 * loss

    def gather_skipped(self: Trainer) -> None:
        """After training, let every process know what the others skipped; all processes must call it."""
        self.skipped = dict.fromkeys(gather_object(list(self.skipped)))
        self._unreadable = sum(gather_object([self._unreadable]))
        self._found_readable = any(gather_object([self._found_readable]))
        if self._unreadable and not self._found_readable:
            raise ValueError(self._nothing_readable())

    def _nothing_readable(self) -> str:
        files = "\n".join(self.skipped)
        return f"none of the first {self._unreadable} {self.samples} can be read:\n{files}"


def _blank(value: torch.Tensor | list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    """Two rows of zeros, for batch normalisation knows no batch of one; of views of several sizes some of each."""
    if isinstance(value, torch.Tensor):
        return value.new_zeros(2, *value.shape[1:])
    return [_blank(group) for group in value]


__all__ = ["SkippedSamplesMixin"]
