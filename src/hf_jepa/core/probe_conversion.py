"""Official probes <-> the heads of our video models, for all variants that have such probes.

As in `core/conversion.py`: what the tensors say is read off them, the rest is known from released files or must be
given, and nothing is left over in either direction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_jepa.core.conversion import State, count, require_tensors, sizes
from hf_jepa.core.key_map import ConversionError, Drop, KeyMap, Rename, Split, require_same_keys
from hf_jepa.core.video_classification import QUESTIONS


PREFIX = "module."  # of data parallelism, before every key
EPSILON = 1e-5  # of all LayerNorms of all official probes, which is no setting there

_CROSS, _OUR_CROSS = "pooler.cross_attention_block", "pooler.cross_attention_layer"
_BLOCK, _OUR_BLOCK = "pooler.blocks.{i}", "pooler.self_attention_layers.{i}"
_READ_OUT = (
    Rename("pooler.query_tokens", "pooler.query_tokens"),
    *(Rename(f"{_CROSS}.norm{n}.*", f"{_OUR_CROSS}.layer_norm{n}.*") for n in (1, 2)),
    Rename(f"{_CROSS}.xattn.q.*", f"{_OUR_CROSS}.cross_attn.q_proj.*"),
    Split(f"{_CROSS}.xattn.kv.*", tuple(f"{_OUR_CROSS}.cross_attn.{x}_proj.*" for x in "kv")),
    Rename(f"{_CROSS}.mlp.*", f"{_OUR_CROSS}.mlp.*"),
    Rename("linear.*", "classifier.*"),
)
PROBE = KeyMap(
    (
        *_READ_OUT,
        *(Rename(f"{_BLOCK}.norm{n}.*", f"{_OUR_BLOCK}.layer_norm{n}.*") for n in (1, 2)),
        Split(f"{_BLOCK}.attn.qkv.*", tuple(f"{_OUR_BLOCK}.self_attn.{x}_proj.*" for x in "qkv")),
        Rename(f"{_BLOCK}.attn.proj.*", f"{_OUR_BLOCK}.self_attn.out_proj.*"),
        Rename(f"{_BLOCK}.mlp.*", f"{_OUR_BLOCK}.mlp.*"),
        *(Rename(f"{name}_classifier.*", f"{name}_classifier.*") for name in QUESTIONS),
    )
)
# V-JEPA 1: a projection that is in the files but never applied, and no blocks, which act on the query there.
UNUSED_PROJECTION = f"{_CROSS}.xattn.proj"
FIRST_PROBE = KeyMap((*_READ_OUT, Drop(f"{UNUSED_PROJECTION}.weight"), Drop(f"{UNUSED_PROJECTION}.bias")))


@dataclass(frozen=True)
class Protocol:
    """How an official evaluation shows videos to its probe.

    Args:
        task: the first word of the names of its files.
        data: what the probe tells apart.
        num_classes: how many; None where that depends on the version of the data.
        frames: of a clip.
        sampling: which frames of the video they are.
        segments, views: clips along time, which the probe reads together, and spatial crops, whose probabilities are
            averaged.
        encoder: fields of the encoder's config that it holds for.
        layers: of the encoder, whose tokens are read; the last alone when unset.
    """

    task: str
    data: str
    num_classes: int | None
    frames: int
    sampling: str
    segments: int = 1
    views: int = 1
    encoder: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None

    def __str__(self) -> str:
        shown = f"{self.data}, clips of {self.frames} frames ({self.sampling})"
        if self.segments * self.views > 1:
            shown += f", {self.segments} segments x {self.views} views"
        return shown


@dataclass(frozen=True)
class Probe:
    """One probe of an official file, in our names.

    Args:
        state: its tensors, named as in the model.
        task: "classification" or "anticipation".
        fields: the config fields that the tensors tell.
        width: of the features that it reads.
        dropped: official keys that the model has no use for.
    """

    state: dict[str, torch.Tensor]
    task: str
    fields: dict[str, int]
    width: int
    dropped: list[str]


@dataclass(frozen=True)
class ProbeLayout:
    """What the official probe files of a variant hold; its methods convert them in both directions.

    Args:
        title: whose probe it is, for messages.
        entry: of the file, which holds the probe.
        several: the entry is a list of probes, trained side by side with different settings.
        key_map: official keys without prefix <-> the names of the model's heads.
        num_attention_heads: of the pooler, which leave no trace in the tensors; those of the encoder when None.
        models: task of a probe -> the class that it becomes a part of.
        protocols: of the official evaluations.
        released: name of a released file, perhaps with its folder -> the encoder it belongs to, as config fields.
    """

    title: str
    entry: str
    several: bool
    key_map: KeyMap
    num_attention_heads: int | None
    models: Mapping[str, type[PreTrainedModel]]
    protocols: tuple[Protocol, ...]
    released: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def holds(self, checkpoint: object) -> bool:
        """Whether a file has the entry of such probes."""
        return isinstance(checkpoint, Mapping) and self.entry in checkpoint

    def states(self, checkpoint: object) -> list[dict[str, torch.Tensor]]:
        """The probes of a file, keys without their prefix.

        Raises:
            ConversionError: no such entry, not state dicts, or a key without the prefix.
        """
        if not self.holds(checkpoint):
            found = sorted(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
            raise ConversionError(f"a probe of {self.title} is under the entry {self.entry!r}; found {found}")
        value = checkpoint[self.entry]
        if self.several and (not isinstance(value, list) or not value):
            raise ConversionError(
                f"entry {self.entry!r} of a {self.title} probe is a list of probes, not {value!r:.80}"
            )
        states = []
        for index, state in enumerate(value if self.several else [value]):
            name = f"{self.entry}[{index}]" if self.several else self.entry
            require_tensors(state, name)
            if wrong := [key for key in state if not str(key).startswith(PREFIX)]:
                raise ConversionError(
                    f"{len(wrong)} keys of entry {name!r} lack the prefix {PREFIX!r}, among them {wrong[0]!r}: it is "
                    f"not an official {self.title} probe"
                )
            states.append({key.removeprefix(PREFIX): tensor for key, tensor in state.items()})
        return states

    def read(self, checkpoint: object, index: int = 0) -> Probe:
        """One probe of a file.

        Args:
            checkpoint: the loaded file.
            index: which of its probes.

        Raises:
            ConversionError: there is no such probe, or it is not one of this variant.
        """
        states = self.states(checkpoint)
        if not 0 <= index < len(states):
            raise ConversionError(f"there is no probe {index}: the file holds {len(states)}, counted from 0")
        official = states[index]
        try:
            _, queries, width = sizes(official, "pooler.query_tokens", "1 queries width")
            asked = [name for name in QUESTIONS if f"{name}_classifier.weight" in official]
            ours = self.key_map.to_ours(official)
            if bool(asked) == ("linear.weight" in official):
                raise ConversionError(
                    "it needs either one 'linear' or some of 'verb_classifier', 'noun_classifier', 'action_classifier'"
                )
            names = {f"num_{name}s": f"{name}_classifier.weight" for name in asked} or {"num_labels": "linear.weight"}
            classes = {name: sizes(official, key, "classes width")[0] for name, key in names.items()}
            if queries != len(classes):
                raise ConversionError(f"it has {queries} queries for {len(classes)} classifiers")
        except ConversionError as error:
            raise ConversionError(f"not an official {self.title} probe: {error}") from error
        return Probe(
            state=ours,
            task="anticipation" if asked else "classification",
            fields={"num_pooler_layers": count(official, "pooler.blocks."), **classes},
            width=width,
            dropped=self.key_map.dropped(official),
        )

    def model_class(self, task: str) -> type[PreTrainedModel]:
        """The class for a task.

        Raises:
            ConversionError: the variant has none.
        """
        if task not in self.models:
            raise ConversionError(f"the probe is one of {task}, for which {self.title} has no model here")
        return self.models[task]

    def require_fit(self, probe: Probe, config: PreTrainedConfig) -> None:
        """Check that a probe is exactly the heads of a model.

        Args:
            probe: from `read`.
            config: of the encoder, with the fields of the probe.

        Raises:
            ConversionError: it is not; heads do not divide its width, or a layer does not exist.
        """
        if probe.width != config.hidden_size:
            raise ConversionError(
                f"the probe reads features of width {probe.width}, the encoder's are {config.hidden_size} wide: it "
                "belongs to another encoder"
            )
        layers = config.classifier_layers or ()
        there = getattr(config, "level_indices", range(config.num_hidden_layers))
        if wrong := [layer for layer in layers if layer not in there]:
            raise ConversionError(f"layers {wrong} are not there: the encoder's are {list(there)}")
        if len(set(layers)) < len(layers):
            raise ConversionError(f"layers {list(layers)} name one twice")
        if probe.task == "anticipation" and layers:
            raise ConversionError("a probe of anticipation reads the last layer and the predictor: name no layers")
        require_same_keys(probe.state, head_tensors(self.model_class(probe.task), config), "probe")

    def protocol(self, path: Path, probe: Probe, config: PreTrainedConfig) -> tuple[str | None, Protocol | None]:
        """The released file and the official evaluation that the name of a file and its classes speak of.

        Args:
            path: of the file.
            probe: its content.
            config: of the encoder.

        Raises:
            ConversionError: it is a released probe of another encoder.
        """
        classes = probe.fields.get("num_labels")
        rows = [row for row in self._rows(path) if row.num_classes in (None, classes)]
        named = [name for name in self.released if name.rpartition("/")[2] == path.name]
        named = [name for name in named if path.resolve().as_posix().endswith(f"/{name}")] or named
        fitting = [name for name in named if _agrees(config, self.released[name])]
        if rows and named and not fitting:
            fields = {name: getattr(config, name) for name in self.released[named[0]]}
            belongs = " or ".join(str(dict(self.released[name])) for name in named)
            raise ConversionError(
                f"{path.name} is the name of a released probe, trained on an encoder with {belongs}, but this one has "
                f"{fields}: give the right one (where its crop_size was only assumed, convert the encoder again and "
                "state it; to convert another probe of this name, rename the file)"
            )
        known = fitting[0] if rows and len(fitting) == 1 else None
        return known, next((row for row in rows if _agrees(config, row.encoder)), None)

    def needs_layers(self, path: Path) -> bool:
        """Whether official probes for the task that a file is named after read more than the last layer."""
        return any(row.layers for row in self._rows(path))

    def write(self, state: State, config: PreTrainedConfig) -> dict[str, Any]:
        """The heads of our model -> an official probe file, without optimizer and epoch.

        Args:
            state: the tensors of the heads.
            config: of the model.

        Raises:
            ConversionError: they do not fit, or the official code would compute something else with them.
        """
        task = "anticipation" if any(f"{name}_classifier.weight" in state for name in QUESTIONS) else "classification"
        require_same_keys(state, head_tensors(self.model_class(task), config), "heads")
        if config.pooler_layer_norm_eps != EPSILON:
            raise ConversionError(
                f"pooler_layer_norm_eps is {config.pooler_layer_norm_eps}, but official probes always compute with "
                f"{EPSILON}: written in their layout this would be another function"
            )
        if self.num_attention_heads is None and config.pooler_num_attention_heads != config.num_attention_heads:
            raise ConversionError(
                f"the pooler has {config.pooler_num_attention_heads} heads, but official {self.title} probes always "
                f"have those of the encoder, {config.num_attention_heads}"
            )
        official = self.key_map.to_official(state)
        if any(isinstance(rule, Drop) for rule in self.key_map.rules):
            # The one projection with which a reader that does apply it computes the same.
            query = official["pooler.query_tokens"]
            official[f"{UNUSED_PROJECTION}.weight"] = torch.eye(query.shape[-1], dtype=query.dtype)
            official[f"{UNUSED_PROJECTION}.bias"] = torch.zeros(query.shape[-1], dtype=query.dtype)
        probe = {PREFIX + key: value for key, value in official.items()}
        return {self.entry: [probe] if self.several else probe}

    def _rows(self, path: Path) -> list[Protocol]:
        return [row for row in self.protocols if row.task == path.name.split("-")[0].lower()]


def head_tensors(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """What a model has beside its base model, on the meta device.

    Raises:
        ConversionError: there is no such model.
    """
    try:
        with torch.device("meta"):
            model = model_class(config)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    base = f"{model.base_model_prefix}."
    return {key: value for key, value in model.state_dict().items() if not key.startswith(base)}


def _agrees(config: PreTrainedConfig, fields: Mapping[str, Any]) -> bool:
    return all(getattr(config, name) == value for name, value in fields.items())


__all__ = [
    "EPSILON",
    "FIRST_PROBE",
    "PREFIX",
    "PROBE",
    "UNUSED_PROJECTION",
    "Probe",
    "ProbeLayout",
    "Protocol",
    "head_tensors",
]
