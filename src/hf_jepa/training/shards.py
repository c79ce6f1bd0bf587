"""Training on shards: the recipe's fields, and the order of an epoch."""

from dataclasses import dataclass, field

from torch.utils.data import Dataset, Sampler
from transformers import Trainer

from hf_jepa.data.shard_order import ShardSampler
from hf_jepa.data.shard_reads import ReadLimits
from hf_jepa.data.shards import ShardOptions


@dataclass(kw_only=True)
class ShardArguments:
    """The part of a recipe that says how shards are read; it plays no part for other data."""

    shard_timeout: float = field(default=60.0, metadata={"help": "Seconds that one read of a shard may take."})
    shard_retries: int = field(default=3, metadata={"help": "Further attempts before a shard is skipped."})
    shard_chunk: int | None = field(
        default=None,
        metadata={"help": "Samples taken from one shard, then the next; default: the batch size per device."},
    )
    shard_lanes: int | None = field(
        default=None,
        metadata={"help": "Shards that are read side by side; default: a power of two."},
    )

    def shard_options(self) -> ShardOptions:
        """As the loading functions of the package take them."""
        limits = ReadLimits(self.shard_timeout, self.shard_retries)
        return ShardOptions(limits, self.shard_chunk, self.shard_lanes)


class ShardOrderMixin:
    """A `Trainer` that takes the samples of shards in the order of `ShardSampler`, others in its own.

    The chunk of that order is the batch size of a process, and that of its first start in a run that resumes: with
    other processes, but the same global batch, it goes on with the global batches of an uninterrupted run.
    """

    def _get_train_sampler(self: Trainer, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        sampler = ShardSampler.of(dataset, lambda: self.state.train_batch_size or self._train_batch_size)
        return super()._get_train_sampler(train_dataset) if sampler is None else sampler


__all__ = ["ShardArguments", "ShardOrderMixin"]
