"""Registration with the Auto classes of transformers, without importing a variant before it is needed.

`AutoModel.register` wants real classes, and those cost the import of torch and of every variant. So the mappings of
the Auto classes get a dict that registers the variants when somebody first looks into it. transformers itself looks
while its modules are half imported (its docstring decorator does); importing a variant then would be a circular
import, so such looks find nothing yet.
"""

import sys
from collections.abc import Callable
from importlib import abc, util
from types import ModuleType

from hf_jepa.registry import VARIANTS, Variant


CONFIGURATION_AUTO = "transformers.models.auto.configuration_auto"
MODELING_AUTO = "transformers.models.auto.modeling_auto"
PROCESSING_AUTO = "transformers.models.auto.processing_auto"


class _RegisterOnLook(dict):
    """The registered part of an Auto mapping: key -> class.

    Args:
        content: what is registered already.
        entries: gives what is to be added.
    """

    def __init__(self, content: dict, entries: Callable[[], dict]):
        super().__init__(content)
        self._entries: Callable[[], dict] | None = entries

    def _look(self) -> dict:
        if self._entries is not None and not _is_importing():
            entries, self._entries = self._entries, None  # importing variants looks here again
            try:
                for key, value in entries().items():
                    self.setdefault(key, value)  # what a user has registered stays
            except BaseException:
                self._entries = entries
                raise
        return self

    def __contains__(self, key) -> bool:
        return super(_RegisterOnLook, self._look()).__contains__(key)

    def __getitem__(self, key):
        return super(_RegisterOnLook, self._look()).__getitem__(key)

    def __len__(self) -> int:
        return super(_RegisterOnLook, self._look()).__len__()

    def __iter__(self):
        return super(_RegisterOnLook, self._look()).__iter__()

    def keys(self):
        return super(_RegisterOnLook, self._look()).keys()

    def values(self):
        return super(_RegisterOnLook, self._look()).values()

    def items(self):
        return super(_RegisterOnLook, self._look()).items()


def _is_importing() -> bool:
    """Whether a module of transformers or of this package is being executed right now."""
    packages = ("transformers", "hf_jepa")
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in packages]
    return any(getattr(vars(module).get("__spec__"), "_initializing", False) for module in modules)


def _own_types() -> list[Variant]:
    """The variants whose `model_type` is ours; a native one is never shadowed."""
    return [variant for variant in VARIANTS.values() if not variant.native]


def _configs() -> dict:
    return {variant.config_class().model_type: variant.config_class() for variant in _own_types()}


def _models(auto_class: str) -> dict:
    """Config class -> model class of an Auto class."""
    found = {}
    for variant in VARIANTS.values():
        keys = [variant.config_class()]
        classes = {"AutoModelForPreTraining": variant.pretraining_model}
        if variant.native:  # AutoConfig returns the native config class, so that is a key as well
            keys += [next(cls for cls in keys[0].__mro__ if cls.__module__.startswith("transformers."))]
        else:
            classes |= {"AutoModel": variant.base_model} | variant.heads
        if classes.get(auto_class) is not None:
            found |= dict.fromkeys(keys, variant.model_class(classes[auto_class]))
    return found


def _processors() -> dict:
    """Config class -> processor class, of variants that take more than images or videos."""
    found = {}
    for variant in _own_types():
        for name in variant.parts.get("processing", ()):
            found[variant.config_class()] = getattr(variant.module("processing"), name)
    return found


def _prepare_configs(module: ModuleType) -> None:
    mapping = module.CONFIG_MAPPING
    mapping._extra_content = _RegisterOnLook(mapping._extra_content, _configs)


def _prepare_models(module: ModuleType) -> None:
    names = {"AutoModel", "AutoModelForPreTraining"}.union(*(variant.heads for variant in VARIANTS.values()))
    for name in names:
        mapping = getattr(module, name)._model_mapping
        mapping._extra_content = _RegisterOnLook(mapping._extra_content, lambda name=name: _models(name))


def _prepare_processors(module: ModuleType) -> None:
    mapping = module.PROCESSOR_MAPPING
    mapping._extra_content = _RegisterOnLook(mapping._extra_content, _processors)


class _PrepareOnImport(abc.MetaPathFinder):
    """Prepares the modules that hold the mappings, as soon as they have been executed."""

    def __init__(self):
        self.waiting = {
            CONFIGURATION_AUTO: _prepare_configs,
            MODELING_AUTO: _prepare_models,
            PROCESSING_AUTO: _prepare_processors,
        }

    def find_spec(self, fullname, path, target=None):
        prepare = self.waiting.pop(fullname, None)  # from here on the other finders answer for this name
        if prepare is None:
            return None
        spec = util.find_spec(fullname)
        execute = spec.loader.exec_module

        def exec_module(module):
            try:
                execute(module)
                prepare(module)
            except BaseException:
                self.waiting[fullname] = prepare
                raise

        spec.loader.exec_module = exec_module
        return spec

    def prepare_loaded(self) -> None:
        for name in list(self.waiting):
            if name in sys.modules:
                self.waiting.pop(name)(sys.modules[name])


def register_when_needed() -> None:
    """Make the Auto classes know all variants, now or whenever they are imported."""
    if not any(isinstance(finder, _PrepareOnImport) for finder in sys.meta_path):
        finder = _PrepareOnImport()
        sys.meta_path.insert(0, finder)
        finder.prepare_loaded()


__all__ = ["register_when_needed"]
