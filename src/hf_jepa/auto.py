"""Registration with the Auto classes of transformers, without importing them.

`AutoModel.register` wants real classes, and those cost the import of torch and of transformers' modeling code. So the
registration waits until a program imports the Auto classes; programs that never do pay nothing.
"""

import sys
from importlib import abc, util

from hf_jepa.registry import VARIANTS, Variant


CONFIGURATION_AUTO = "transformers.models.auto.configuration_auto"
MODELING_AUTO = "transformers.models.auto.modeling_auto"


def register_config(variant: Variant) -> None:
    if variant.native:
        return  # a native model type is never shadowed
    config = variant.config_class()
    sys.modules[CONFIGURATION_AUTO].AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models(variant: Variant) -> None:
    key = variant.config_class()
    classes = {"AutoModelForPreTraining": variant.pretraining_model}
    if variant.native:  # AutoConfig returns the native config class, so that is the key
        key = next(cls for cls in key.__mro__ if cls.__module__.startswith("transformers."))
    else:
        classes |= {"AutoModel": variant.base_model} | variant.heads
    for auto_class, name in classes.items():
        getattr(sys.modules[MODELING_AUTO], auto_class).register(key, variant.model_class(name), exist_ok=True)


class _AutoRegistration(abc.MetaPathFinder):
    """Registers a variant as soon as both it and the Auto classes can be imported without a cycle.

    transformers may import its Auto classes in the middle of the import of one of our modules (its docstring decorator
    does), so the finder watches both sides and acts when the later one has been executed.
    """

    def __init__(self):
        self.executing: set[str] = set()
        self.watched = {CONFIGURATION_AUTO, MODELING_AUTO}
        self.watched |= {variant.module_name(kind) for variant in VARIANTS.values() for kind in self.kinds()}

    @staticmethod
    def kinds() -> dict[str, tuple]:
        return {"configuration": (CONFIGURATION_AUTO, register_config), "modeling": (MODELING_AUTO, register_models)}

    def find_spec(self, fullname, path, target=None):
        if fullname not in self.watched or fullname in self.executing:
            return None
        self.executing.add(fullname)  # from here on the other finders answer for this name
        spec = util.find_spec(fullname)
        execute = spec.loader.exec_module

        def exec_module(module):
            try:
                execute(module)
            finally:
                self.executing.discard(fullname)
            self.register_ready()

        spec.loader.exec_module = exec_module
        return spec

    def register_ready(self) -> None:
        for variant in VARIANTS.values():
            if any(variant.module_name(kind) in self.executing for kind in self.kinds()):
                continue
            for auto_module, register in self.kinds().values():
                if auto_module in sys.modules and auto_module not in self.executing:
                    register(variant)


def register_when_imported() -> None:
    """Register all variants now where the Auto classes are loaded, else as soon as they are."""
    if not any(isinstance(finder, _AutoRegistration) for finder in sys.meta_path):
        finder = _AutoRegistration()
        sys.meta_path.insert(0, finder)
        finder.register_ready()


__all__ = ["register_when_imported"]
