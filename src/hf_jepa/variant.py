"""What the registry says of a variant, and what follows from it."""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One member of the family. Everything else follows from the folder `hf_jepa/models/<name>/`.

    Args:
        name: folder name and command-line name.
        title: as written in prose.
        paper: arXiv identifier.
        modality: "image", "video", "audio", "text", "vision_text", "trajectory".
        inputs: what the pretraining model is called with: "masks" (a context mask and a target mask), "views" (several
            of each image), "in_place_masks" (what is hidden is replaced, not left out), "plain" (the samples alone),
            "text_pairs" (two views of a text, laid out in rows), "vision_text" (clips, queries and texts),
            "trajectory" (clips, what was done between their frames, where the agent was).
        config: config class, in `configuration_<name>.py`; `class_names` gives this and the next three.
        base_model: encoder class, in `modeling_<name>.py`; None where it is a stock model of any type (LLM-JEPA).
        pretraining_model: class with the objective, in `modeling_<name>.py`.
        heads: further model classes, Auto class -> class in `modeling_<name>.py`.
        parts: further public names, module suffix -> names.
        native: True where transformers itself owns the `model_type`, which is then never shadowed.
        weights_license: licence of converted official weights.
        program: the module of `hf_jepa.training` whose `finetune` trains it, where its modality has no program for it.
        processor_of: the variant whose processor prepares its inputs too, where it has none in its own folder.
        tiny: config fields of a model that trains in well under a second, for the behaviour suites; CONTRIBUTING.md
            says what they ask of it.
    """

    name: str
    title: str
    paper: str
    modality: str
    inputs: str = "masks"
    config: str
    base_model: str | None = None
    pretraining_model: str
    heads: dict[str, str] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    native: bool = False
    weights_license: str | None = None
    program: str | None = None
    processor_of: str | None = None
    tiny: dict

    def module_name(self, kind: str) -> str:
        """Name of the module `<kind>_<name>` of the variant's folder."""
        return f"hf_jepa.models.{self.name}.{kind}_{self.name}"

    def module(self, kind: str) -> ModuleType:
        """The module `<kind>_<name>` of the variant's folder, e.g. `module("modeling")`."""
        return import_module(self.module_name(kind))

    def public_names(self) -> dict[str, str]:
        """Public name -> module that defines it."""
        kinds = dict(self.parts)
        kinds["configuration"] = (self.config, *kinds.get("configuration", ()))
        modeling = dict.fromkeys((self.base_model, self.pretraining_model, *self.heads.values()))
        modeling.pop(None, None)
        kinds["modeling"] = (*kinds.get("modeling", ()), *modeling)
        return {name: self.module_name(kind) for kind, names in kinds.items() for name in names}

    def config_class(self):
        return getattr(self.module("configuration"), self.config)

    def model_class(self, name: str | None = None):
        """A model class of the variant; the pretraining model unless another is named."""
        return getattr(self.module("modeling"), name or self.pretraining_model)

    @property
    def stock(self) -> bool:
        """Whether stock transformers loads the checkpoints."""
        return self.native or self.base_model is None

    def base_class(self):
        """The class that loads the encoder of a checkpoint."""
        from transformers import AutoModel  # as late as everything heavy

        return AutoModel if self.base_model is None else self.model_class(self.base_model)

    @property
    def convertible(self) -> bool:
        """Whether official weights exist: `convert_<name>.py` has `LAYOUT`, and `PROBES` where there are probes."""
        return (Path(__file__).parent / "models" / self.name / f"convert_{self.name}.py").is_file()

    @property
    def layout(self):
        """The `OfficialLayout` of the variant's official checkpoints."""
        return self.module("convert").LAYOUT

    @property
    def probes(self):
        """The `ProbeLayout` of the variant's official probes; None where it has none."""
        return getattr(self.module("convert"), "PROBES", None) if self.convertible else None

    def encoder_of(self, model):
        """The encoder of a base model, which in some variants holds the predictor too."""
        return model.get_submodule(self.encoder_place())

    def encoder_place(self) -> str:
        """Name of the encoder in a base model; empty where it is the base model."""
        model = self.model_class()
        base, _, place = (getattr(model, "target_encoder_name", None) or "").partition(".")  # in the pretraining model
        return place if base == model.base_model_prefix else ""

    @property
    def processor_class(self):
        """The class of its image or video processor; None where it names none."""
        if self.processor_of is not None:
            from hf_jepa.registry import VARIANTS  # made of this class

            return VARIANTS[self.processor_of].processor_class
        kind = f"{self.modality}_processing"
        if kind not in self.parts:
            return None
        (name,) = self.parts[kind]
        return getattr(self.module(kind), name)

    def processor(self, config):
        """The image or video processor for the input size of a config.

        Raises:
            ValueError: the variant names none.
        """
        if self.processor_class is None:
            raise ValueError(
                f"{self.title} names no processor: add {self.modality}_processing_{self.name}.py to its parts"
            )
        return self.processor_class.from_config(config)


def class_names(prefix: str, *heads: str) -> dict:
    """The classes of a variant by the names that nearly all have.

    Args:
        prefix: what the names begin with.
        heads: tasks for which there is an Auto class.

    Example:
        >>> class_names("IJepa", "ImageClassification")["heads"]
        {'AutoModelForImageClassification': 'IJepaForImageClassification'}
    """
    return {
        "config": f"{prefix}Config",
        "base_model": f"{prefix}Model",
        "pretraining_model": f"{prefix}ForPreTraining",
        "heads": {f"AutoModelFor{task}": f"{prefix}For{task}" for task in heads},
    }


__all__ = ["Variant", "class_names"]
