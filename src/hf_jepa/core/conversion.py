"""Official checkpoints <-> ours, for all variants: each says in an `OfficialLayout` what its files hold.

A converter refuses rather than guesses. What the tensors say is read off them, what they cannot say (attention heads,
clip sizes of models without position tables) is known from named sizes and released files or must be given.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from hf_jepa.core.configuration import model_fields, require_model_fields
from hf_jepa.core.key_map import ConversionError, KeyMap, require_same_keys


State = Mapping[str, torch.Tensor]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Entry:
    """One state dict of an official file.

    Args:
        key_map: its keys and ours.
        part: the submodule of the pretraining model that it becomes.
    """

    key_map: KeyMap
    part: str


@dataclass(frozen=True)
class Heads:
    """A number of attention heads, which leaves no trace in the tensors.

    Args:
        by: the config fields that decide it in the sizes that people use.
        known: their values -> heads.
    """

    by: tuple[str, ...]
    known: Mapping[tuple, int]

    @classmethod
    def of_sizes(cls, table: Mapping[str, Mapping[str, Any]]) -> "Heads":
        """Those of an encoder, by the width and depth of named sizes.

        Example:
            >>> Heads.of_sizes({"small": {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}}).known
            {(8, 2): 4}
        """
        by = ("hidden_size", "num_hidden_layers")
        return cls(by, {tuple(size[name] for name in by): size["num_attention_heads"] for size in table.values()})


@dataclass(frozen=True)
class Release:
    """An officially released file.

    Args:
        architecture: config fields that can be read off its tensors, by which it is recognised.
        untold: config fields of the model that its tensors do not tell.
        epoch: what the file keeps under that name; tells files of one architecture apart.
    """

    architecture: Mapping[str, Any]
    untold: Mapping[str, Any] = field(default_factory=dict)
    epoch: int | None = None


@dataclass(frozen=True)
class OfficialLayout:
    """What the official checkpoints of a variant hold; its methods convert them in both directions.

    Args:
        title: what such a file is, for messages: "I-JEPA checkpoint of images".
        config_class, model_class: of the pretraining model.
        entries: entry of the file -> its `Entry`. One is called "target_encoder"; entries with the same key map are
            encoders too, and those of the same part are other names of the target encoder. An entry "predictor" is
            handed to `read`.
        required: entries that every file has; beside these one encoder is always needed.
        wrappers: what wrappers of the official training put before keys ("module." of data parallelism); they are
            removed wherever they stand, and all of them written back in this order.
        more_wrappers: those that the official loader removes as well, and that are not written.
        read: (encoder, predictor or None) -> config fields, from the tensors.
        heads: config field -> how it is known, where it is not given.
        untold: config fields that are part of the model's training but leave no trace in the tensors.
        foreign: first part of a key -> the model that such a file is of, to be told to whoever takes it for ours.
        check: (parts, config, names of the fields that were given) -> None; raises what only the variant can notice.
        released: name of a file -> `Release`.
    """

    title: str
    config_class: type[PreTrainedConfig]
    model_class: Callable[[PreTrainedConfig], torch.nn.Module]
    entries: Mapping[str, Entry]
    required: tuple[str, ...]
    wrappers: tuple[str, ...]
    read: Callable[[State, State | None], dict[str, Any]]
    heads: Mapping[str, Heads]
    untold: tuple[str, ...] = ()
    more_wrappers: tuple[str, ...] = ()
    foreign: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Mapping[str, State], PreTrainedConfig, frozenset[str]], None] | None = None
    released: Mapping[str, Release] = field(default_factory=dict)

    @property
    def target_part(self) -> str:
        """The target encoder's place in the pretraining model."""
        return self.entries["target_encoder"].part

    @property
    def target_keys(self) -> tuple[str, ...]:
        """The entries that hold encoders, any of which can become the target encoder."""
        encoder = self.entries["target_encoder"].key_map
        return tuple(name for name, entry in self.entries.items() if entry.key_map is encoder)

    def present(self, checkpoint: object) -> list[str]:
        """The entries that a file has, if they are enough; an empty list otherwise."""
        if not isinstance(checkpoint, Mapping) or any(name not in checkpoint for name in self.required):
            return []
        found = [name for name in self.entries if name in checkpoint]
        return found if set(found) & set(self.target_keys) else []

    def parts(self, checkpoint: object) -> dict[str, dict[str, torch.Tensor]]:
        """The state dicts of an official file, keys without wrappers.

        Raises:
            ConversionError: an entry is missing or is not a state dict, a tensor is not one of dense floating numbers,
                or two keys differ in their wrappers alone.
        """
        present = self.present(checkpoint)
        if not present:
            raise ConversionError(self._lacking(checkpoint))
        parts = {}
        for name in present:
            state = checkpoint[name]
            require_tensors(state, name)
            parts[name] = {self._unwrapped(key): value for key, value in state.items()}
            if len(parts[name]) < len(state):
                raise ConversionError(
                    f"entry {name!r} of the checkpoint holds keys both with and without {''.join(self.wrappers)!r}"
                )
        return parts

    def infer_config(self, checkpoint: object, **overrides) -> PreTrainedConfig:
        """Read the architecture off the tensors of an official checkpoint.

        Args:
            checkpoint: the loaded file.
            overrides: config fields that complete or override what is read; numbers of heads must be given where the
                widths are not those of named sizes.

        Raises:
            ConversionError: a tensor that decides the architecture is missing or of another rank, heads cannot be
                known, the file is of another model, or an override does not fit.
            ValueError: an override is no field of the model.
        """
        require_model_fields(self.config_class, overrides)
        parts = self.parts(checkpoint)
        try:
            self._refuse_foreign(parts)
            encoder = next(parts[name] for name in self.target_keys if name in parts)
            read = self.read(encoder, parts.get("predictor"))
        except ConversionError as error:
            raise ConversionError(f"not an official {self.title}: {error}") from error
        for name, heads in self.heads.items():
            if name not in overrides and all(by in read for by in heads.by):
                read[name] = self._known_heads(name, heads, read)
        try:
            config = self.config_class(**(read | {name: self._number(name, v) for name, v in overrides.items()}))
        except StrictDataclassError as error:
            given = [name for name in self.untold if name not in overrides]
            hint = f" ({', '.join(given)} leave no trace in the tensors: give what they were by --config)"
            raise ConversionError(f"{error.__cause__ or error}{hint if given else ''}") from error
        if self.check is not None:
            self.check(parts, config, frozenset(overrides))
        return config

    def convert(
        self, checkpoint: object, config: PreTrainedConfig, target_key: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Official checkpoint -> state dict of the pretraining model; tensors are views of the official ones.

        Args:
            checkpoint: the loaded file.
            config: its architecture, from `infer_config`.
            target_key: official entry that becomes the target encoder, the one `AutoModel` loads; what the file calls
                so when unset. Parts that an optional entry would fill are left out where the file lacks it.

        Raises:
            ConversionError: anything missing, unexpected or of another shape.
        """
        parts, state = self.parts(checkpoint), {}
        with torch.device("meta"):
            model = self.model_class(config)
        for part, name in self.sources(checkpoint, target_key).items():
            converted = self.entries[name].key_map.to_ours(parts[name])
            require_same_keys(converted, model.get_submodule(part).state_dict(), f"entry {name!r}")
            state |= {f"{part}.{key}": value for key, value in converted.items()}
        return state

    def sources(self, checkpoint: object, target_key: str | None = None) -> dict[str, str]:
        """Part of the pretraining model -> the entry of a file that fills it.

        Raises:
            ConversionError: there is no such target key, or not in this file.
        """
        present = self.present(checkpoint)
        if target_key is not None and target_key not in self.target_keys:
            raise ConversionError(f"target key {target_key!r} is not one of {', '.join(self.target_keys)}")
        named = [name for name in present if self.entries[name].part == self.target_part]
        if target_key is None and named:
            target_key = named[0]
        if target_key not in present:
            others = [name for name in self.target_keys if name in present]
            raise ConversionError(
                f"the file has no entry {target_key or 'target_encoder'!r} for the target encoder; to take another "
                f"encoder for it, give --target-key {' or '.join(others)}"
            )
        sources = {self.entries[name].part: name for name in reversed(present)}
        return sources | {self.target_part: target_key}

    def unused(self, checkpoint: Mapping) -> list[str]:
        """The entries of a file that are not read."""
        return [key for key in checkpoint if key not in self.entries]

    def dropped(self, checkpoint: object) -> list[str]:
        """The tensors of a file that the model has no use for and the key maps leave out on purpose."""
        parts = self.parts(checkpoint)
        return [f"{name}.{key}" for name, part in parts.items() for key in self.entries[name].key_map.dropped(part)]

    def fits(self, checkpoint: object) -> None:
        """Check that a file can be converted, given its numbers of heads.

        Raises:
            ValueError: it cannot.
        """
        config = self.infer_config(checkpoint, **dict.fromkeys(self.heads, 1))  # one head suits every width
        any_encoder = next(name for name in self.target_keys[::-1] if name in self.present(checkpoint))
        self.convert(checkpoint, config, any_encoder)

    def revert(self, state: State, config: PreTrainedConfig) -> dict[str, dict[str, torch.Tensor]]:
        """Our tensors -> the entries of an official checkpoint, keys with all wrappers, as in the released files.

        Args:
            state: the state dict of a pretraining model; a part that an optional entry holds may be absent as a whole.
            config: its architecture; its `official_target_key`, which a converted checkpoint has, may name the entry
                of the target encoder.

        Raises:
            ConversionError: anything missing, unexpected or of another shape.
        """
        with torch.device("meta"):
            expected = self.model_class(config).state_dict()
        names = self._entry_names(config)
        absent = {part for part in names if not any(key.startswith(f"{part}.") for key in state)}
        optional = {part for part in absent if names[part] not in self.required and part != self.target_part}
        wanted = {key: v for key, v in expected.items() if not any(key.startswith(f"{part}.") for part in optional)}
        require_same_keys(state, wanted, "checkpoint")
        official = {}
        for part, name in names.items():
            own = {key.removeprefix(f"{part}."): v for key, v in state.items() if key.startswith(f"{part}.")}
            if own:
                reverted = self.entries[name].key_map.to_official(own)
                official[name] = {"".join(self.wrappers) + key: value for key, value in reverted.items()}
        return official

    def fields_not_in_layout(self, config: PreTrainedConfig, official: object) -> dict[str, Any]:
        """The config fields that reading an official checkpoint back would miss or guess otherwise.

        Args:
            config: of our checkpoint.
            official: what `revert` made of it.
        """
        given = {name: getattr(config, name) for name in (*self.heads, *self.untold)}
        guess, default = self.infer_config(official, **given), self.config_class()
        lost = {name for name in model_fields(self.config_class) if getattr(config, name) != getattr(guess, name)}
        lost |= {name for name in self.untold if given[name] != getattr(default, name)}
        for name, heads in self.heads.items():
            if heads.known.get(tuple(getattr(config, by) for by in heads.by)) != given[name]:
                lost.add(name)
        return {name: getattr(config, name) for name in model_fields(self.config_class) if name in lost}

    def released_names(
        self, config: PreTrainedConfig, epoch: int | None = None, file_name: str | None = None
    ) -> tuple[str, ...]:
        """The released files of an architecture; of several alike the one of this epoch or name, where that helps."""
        alike = tuple(
            name
            for name, release in self.released.items()
            if all(_plain(getattr(config, key)) == _plain(v) for key, v in release.architecture.items())
        )
        if file_name in alike:
            return (file_name,)
        return tuple(name for name in alike if epoch is not None and self.released[name].epoch == epoch) or alike

    def _lacking(self, checkpoint: object) -> str:
        message = f"not an official {self.title}: expected the entries {', '.join(self.entries)}; found "
        if not isinstance(checkpoint, Mapping):
            return message + type(checkpoint).__name__
        missing = [name for name in self.required if name not in checkpoint]
        return f"{message}{sorted(map(str, checkpoint))}; missing: {', '.join(missing) or 'an encoder'}"

    def _unwrapped(self, key: object) -> str:
        name = str(key)
        for wrapper in (*self.wrappers, *self.more_wrappers):
            name = name.replace(wrapper, "")
        return name

    def _refuse_foreign(self, parts: Mapping[str, State]) -> None:
        for name, part in parts.items():
            for key in part:
                if other := self.foreign.get(key.split(".")[0]):
                    raise ConversionError(f"{key} of entry {name!r} is a tensor of {other}")

    def _known_heads(self, name: str, heads: Heads, read: Mapping[str, Any]) -> int:
        values = tuple(read[by] for by in heads.by)
        if values in heads.known:
            return heads.known[values]
        size = " and ".join(f"{by} {value}" for by, value in zip(heads.by, values, strict=True))
        raise ConversionError(
            f"{size} are no named size, so the number of attention heads, which leaves no trace in the tensors, "
            f"cannot be known: give --{name.replace('_', '-')}"
        )

    def _number(self, name: str, value: Any) -> Any:
        """A number that YAML takes for text, such as 1e-6, where the field is a number with a fraction."""
        hint = model_fields(self.config_class)[name]
        if isinstance(value, str) and float in (hint, *get_args(hint)):
            try:
                return float(value)
            except ValueError as error:
                raise ConversionError(f"{name} is {value!r}, expected a number") from error
        return value

    def _entry_names(self, config: PreTrainedConfig) -> dict[str, str]:
        """Part of the pretraining model -> the entry that it is written to."""
        names = {entry.part: name for name, entry in reversed(self.entries.items())}
        names |= {self.target_part: "target_encoder"}
        recorded = getattr(config, "official_target_key", None)
        if recorded in self.entries and self.entries[recorded].part == self.target_part:
            names[self.target_part] = recorded
        return {entry.part: names[entry.part] for entry in self.entries.values()}


def require_tensors(state: object, name: str) -> None:
    """Check that an entry of a file is a state dict of dense floating numbers.

    Args:
        state: the entry.
        name: of the entry, for the message.

    Raises:
        ConversionError: it is something else.
    """
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ConversionError(f"entry {name!r} of the checkpoint is not a state dict of tensors")
    for key, value in state.items():
        if is_counter(str(key), value):
            continue
        if value.layout != torch.strided or value.dtype not in FLOATS or not value.numel():
            raise ConversionError(
                f"{key} of entry {name!r} is not a dense tensor of floating-point numbers, but of shape "
                f"{tuple(value.shape)}, {value.dtype}, {value.layout}"
            )


def is_counter(key: str, value: torch.Tensor) -> bool:
    """Whether this is the number of batches that a batch normalisation has seen, the one integer among weights.

    Example:
        >>> is_counter("projector.1.num_batches_tracked", torch.tensor(7))
        True
    """
    return key.rpartition(".")[2] == "num_batches_tracked" and value.dtype == torch.int64 and value.ndim == 0


def sizes(state: State, key: str, names: str) -> tuple[int, ...]:
    """The sides of a tensor that decides the architecture.

    Args:
        state: part of an official file.
        key: of the tensor.
        names: of its sides, separated by blanks.

    Raises:
        ConversionError: there is no such tensor, or it has another number of sides.

    Example:
        >>> sizes({"norm.weight": torch.zeros(3)}, "norm.weight", "width")
        (3,)
    """
    if key not in state:
        raise ConversionError(f"it has no tensor {key!r} (but, for example, {next(iter(state))!r})")
    shape = tuple(state[key].shape)
    if len(shape) != len(names.split()):
        raise ConversionError(f"{key} has the shape {shape}, expected ({names.replace(' ', ', ')})")
    return shape


def count(state: State, prefix: str) -> int:
    """Number of blocks, counted: the highest index could be a stray key that asks for a million layers.

    Example:
        >>> count({"blocks.0.norm1.bias": torch.zeros(1), "blocks.0.norm2.bias": torch.zeros(1)}, "blocks.")
        1
    """
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def side(height: int, width: int) -> int | list[int]:
    """A size as configs have it: one number where both sides are equal."""
    return height if height == width else [height, width]


def exact_ratio(hidden: int, width: int) -> float:
    """The ratio that configs multiply `width` by and cut to `hidden`.

    Example:
        >>> int(88 * (120 / 88)), int(88 * exact_ratio(120, 88))
        (119, 120)
    """
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _plain(value: Any) -> Any:
    """[14, 14] is 14, and lists are tuples."""
    if not isinstance(value, list | tuple):
        return value
    return value[0] if len(set(value)) == 1 else tuple(value)


__all__ = [
    "Entry",
    "Heads",
    "OfficialLayout",
    "Release",
    "count",
    "exact_ratio",
    "is_counter",
    "require_tensors",
    "side",
    "sizes",
]
