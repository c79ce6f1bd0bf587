"""The data of a run: one source, or several with weights, each a dataclass with a `path`."""

from dataclasses import dataclass, field, fields
from typing import Any

from hf_jepa.training.recipe import as_mapping
from hf_jepa.training.run_cards import dataset_names
from hf_jepa.training.shards import ShardArguments


@dataclass(kw_only=True)
class SourceArguments(ShardArguments):
    """Where samples come from. Sub-classes say what a source is (`source_class`), and what it takes from the run."""

    # Without annotations, for they are no fields.
    source_class = object
    generated = ""  # the data set that the package makes itself

    dataset: dict | str | None = field(default=None, metadata={"help": "Where the data is."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    epoch_length: int | None = field(
        default=None,
        metadata={"help": "Samples that an epoch draws from several sources; default: as many as they have."},
    )

    def of_run(self) -> dict[str, Any]:
        """Settings of a source that does not say them itself."""
        return {"split": self.train_split}

    def sources(self) -> dict[str, Any]:
        """The sources by name.

        Raises:
            ValueError: no data set, or settings of a source that do not exist.
        """
        given = as_mapping(self.dataset)
        if not given:
            raise ValueError(
                f"dataset is missing: name a file, a folder, a Hub id, '{self.generated}', or several sources"
            )
        if isinstance(given, str):
            given = {given: {"path": given}}
        known = [each.name for each in fields(self.source_class)]
        for name, settings in given.items():
            if not isinstance(settings, dict) or "path" not in settings or not set(settings) <= set(known):
                raise ValueError(f"source {name!r} is {settings!r}: expected path and any of {', '.join(known[1:])}")
        return {name: self.source_class(**(self.of_run() | settings)) for name, settings in given.items()}

    def all_generated(self) -> bool:
        """Whether all that is trained on is made by the package, so that its texts and pixels are known."""
        return {source.path for source in self.sources().values()} == {self.generated}

    def data_card(self) -> dict[str, Any]:
        """What the card says of the data, as arguments of `create_model_card`."""
        sources = list(self.sources().values())
        named = [dataset_names(source.path) for source in sources]
        weights = [f" (weight {source.weight:g})" if len(sources) > 1 else "" for source in sources]
        shown = [each["dataset"] + weight for each, weight in zip(named, weights, strict=True)]
        return {"dataset": shown, "dataset_tags": [each["dataset_tags"] for each in named if "dataset_tags" in each]}


__all__ = ["SourceArguments"]
