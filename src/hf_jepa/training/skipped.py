"""The images or clips that a run could not read: named once, counted over all processes."""

from typing import Any

from accelerate.utils import gather_object
from transformers import Trainer
from transformers.utils import logging

from hf_jepa.core.clips import as_groups


logger = logging.get_logger(__name__)

GIVE_UP = 20  # unreadable samples before the first readable one


class SkippedImagesMixin:
    """A `Trainer` for batches of `ImageCollator` or `VideoCollator`, which name what is missing from them.

    A batch of which nothing can be read weighs nothing: the model sees blank pixels, because all processes must take
    part in every step, and the loss is multiplied by zero.

    Attributes:
        samples: what the batches are of: "images", "clips".
        skipped: "path: reason" of every image or clip, in order of appearance.

    Raises:
        ValueError: the first 20 samples cannot be read, so that the data is wrong rather than a few files.
    """

    samples = "images"

    def __init__(self, *args: Any, **kwargs: Any):
        self.skipped: dict[str, None] = {}
        self._found_readable = self._batch_is_blank = False
        super().__init__(*args, **kwargs)

    def take_skipped(self, inputs: dict[str, Any], kept: bool = False) -> dict[str, Any]:
        """A batch without its entry "skipped", of which note is taken; an empty batch becomes one blank row.

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
        self._batch_is_blank = rows == (len(unreadable) if kept else 0)
        self._found_readable |= not self._batch_is_blank
        if not self._found_readable and len(self.skipped) >= GIVE_UP:
            files = "\n".join(self.skipped)
            raise ValueError(f"none of the first {len(self.skipped)} {self.samples} can be read:\n{files}")
        if rows == 0:
            first = {name: as_groups(value)[0] for name, value in inputs.items()}
            return {name: tensor.new_zeros(1, *tensor.shape[1:]) for name, tensor in first.items()}
        return inputs

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        if not self._batch_is_blank:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        return (0.0 * loss, outputs) if return_outputs else 0.0 * loss

    def gather_skipped(self: Trainer) -> None:
        """Let every process know what the others skipped; all processes must call it."""
        self.skipped = dict.fromkeys(gather_object(list(self.skipped)))


__all__ = ["SkippedImagesMixin"]
