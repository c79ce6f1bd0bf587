"""Weights that a checkpoint lacks: one refusal for all, and models none of which may start at random."""

from collections.abc import Iterable
from os import PathLike

from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging


logger = logging.get_logger(__name__)

REMEDY = (
    "check that the checkpoint is of this variant and not truncated; of a run with adapters take the one at its end, "
    "where they are merged"
)


def require_weights(missing: Iterable[str], source: str | PathLike, wanted: str, remedy: str = REMEDY) -> None:
    """Refuse a checkpoint that lacks weights: transformers would draw them at random.

    Args:
        missing: their names.
        source: folder or Hub id.
        wanted: what they are of, for the message.
        remedy: what to do, for the message.

    Raises:
        ValueError: there are such weights.

    Example:
        >>> require_weights([], "facebook/ijepa_vith14_1k", "the encoder")
    """
    if lost := sorted(missing):
        raise ValueError(f"{source} lacks {len(lost)} weights of {wanted}, among them {', '.join(lost[:5])}: {remedy}")


class WholeCheckpointMixin:
    """Loading of a model all parts of which must be trained, heads as well.

    A class that mixes this in stands before `JepaPreTrainedModel`.
    """

    optional_parts: tuple[str, ...] = ()  # may be absent from a checkpoint as a whole, and then start afresh
    remedy = REMEDY  # what the refusal of other checkpoints advises

    def _require_whole(self: PreTrainedModel, missing: set[str], source: str) -> None:
        for part in self.optional_parts:
            expected = {name for name, _ in self.named_parameters() if name.startswith(f"{part}.")}  # tied ones once
            if expected and expected <= missing:
                missing = {key for key in missing if not key.startswith(f"{part}.")}
                logger.warning(f"{source} holds no {part}: it starts from a fresh initialisation")
        require_weights(missing, source, type(self).__name__, self._remedy_for(missing))

    def _remedy_for(self, missing: set[str]) -> str:
        return self.remedy


__all__ = ["REMEDY", "WholeCheckpointMixin", "require_weights"]
