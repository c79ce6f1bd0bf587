"""The images that a run could not read: named once, counted over all processes."""

from typing import Any

from accelerate.utils import gather_object
from transformers import Trainer
from transformers.utils import logging


logger = logging.get_logger(__name__)


class SkippedImagesMixin:
    """A `Trainer` for batches of `ImageCollator`, which name the images that are missing from them.

    Attributes:
        skipped: "path: reason" of every image, in order of appearance.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self.skipped: dict[str, None] = {}
        super().__init__(*args, **kwargs)

    def take_skipped(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch without its entry "skipped", of which note is taken."""
        inputs = dict(inputs)
        for file in inputs.pop("skipped", ()):
            if file not in self.skipped:
                logger.warning(f"skipped an image that cannot be read: {file}")
                self.skipped[file] = None
        return inputs

    def gather_skipped(self: Trainer) -> None:
        """Let every process know what the others skipped; all processes must call it."""
        self.skipped = dict.fromkeys(gather_object(list(self.skipped)))


__all__ = ["SkippedImagesMixin"]
