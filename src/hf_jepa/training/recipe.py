"""Reading a recipe: a YAML file whose values the command line may override."""

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from hf_jepa.core.arguments import HelpFormatter
from hf_jepa.registry import VARIANTS


def as_mapping(value: Any) -> Any:
    """A field of a recipe that holds fields itself, on the command line written as JSON; others as they are.

    Example:
        >>> as_mapping('{"hidden_size": 96}'), as_mapping("embedded")
        ({'hidden_size': 96}, 'embedded')
    """
    return json.loads(value) if isinstance(value, str) and value.lstrip().startswith("{") else value


class _Parser(HfArgumentParser):
    def __init__(self, dataclass_types: Sequence[type], **kwargs):
        super().__init__(dataclass_types, formatter_class=HelpFormatter, **kwargs)

    def error(self, message: str):  # one line, without the usage of a hundred options
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parse_recipe(
    dataclass_types: Sequence[type], argv: Sequence[str], description: str | None = None, prog: str | None = None
) -> tuple:
    """Fill dataclasses from `[recipe.yaml] [--field value ...]`; the command line wins over the file.

    Args:
        dataclass_types: one dataclass per section of the recipe. The YAML file is flat: field name -> value.
        argv: the arguments, without the program's name.
        description: what `--help` says the script does.
        prog: how the program is called; the name of its file unless given.

    Returns:
        one instance per dataclass type.

    Raises:
        SystemExit: status 2 and one line on stderr for a missing or unreadable file, unknown fields and values of
            another type.

    Example:
        >>> from hf_jepa.training.pretrain_image import MaskArguments
        >>> (masks,) = parse_recipe([MaskArguments], ["--target_scale", "0.1", "0.2"])
        >>> masks.target_scale
        [0.1, 0.2]
    """
    parser, argv = _parser_with_file(dataclass_types, argv, description, prog)
    if unknown := parser.parse_known_args(argv)[1]:
        parser.error(f"unknown arguments: {' '.join(unknown)}{_fields_of_the_model(parser)}")
    return parser.parse_args_into_dataclasses(args=argv)


def take_variant(argv: Sequence[str], modality: str, description: str | None = None) -> tuple[str, list[str]]:
    """The first argument of a script that serves all variants of a modality, and those that follow.

    Raises:
        SystemExit: status 2 and the names to choose from where it is none of them.

    Example:
        >>> take_variant(["vjepa2", "recipe.yaml"], "video")
        ('vjepa2', ['recipe.yaml'])
    """
    names = [name for name, variant in VARIANTS.items() if variant.modality == modality]
    usage = "%(prog)s VARIANT [recipe.yaml] [--field value ...]"
    parser = argparse.ArgumentParser(
        usage=usage, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", choices=names, help="VARIANT --help lists the fields of its recipe")
    return parser.parse_args(argv[:1]).variant, list(argv[1:])


def given_fields(dataclass_types: Sequence[type], argv: Sequence[str]) -> dict[str, Any]:
    """What a run was asked for: the fields that differ from their defaults, ready to be a recipe again.

    Args:
        dataclass_types, argv: as for `parse_recipe`.
    """
    bare = _Parser(dataclass_types)
    for action in bare._actions:
        action.required = False
    defaults = vars(bare.parse_args([]))
    parser, argv = _parser_with_file(dataclass_types, argv)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value != defaults[name]}
    return {name: as_mapping(value) for name, value in given.items()}


def _parser_with_file(
    dataclass_types: Sequence[type], argv: Sequence[str], description: str | None = None, prog: str | None = None
) -> tuple[_Parser, list[str]]:
    """A parser whose defaults are the values of the file, and the arguments that follow the file."""
    usage = "%(prog)s [recipe.yaml] [--field value ...]"
    parser = _Parser(dataclass_types, description=description, prog=prog, usage=usage)
    argv = list(argv)
    if not argv or argv[0].startswith("-"):
        return parser, argv
    values = _read_yaml(argv.pop(0), parser)
    hints = {name: hint for cls in dataclass_types for name, hint in get_type_hints(cls).items()}
    actions = {action.dest: action for action in reversed(parser._actions)}  # before its --no_... complement
    if unknown := sorted(map(str, values.keys() - actions.keys())):
        parser.error(f"the recipe has unknown fields: {', '.join(unknown)}{_fields_of_the_model(parser)}")
    from_file = []
    for name, value in values.items():
        if value is None or isinstance(value, dict):  # what no argument can spell
            if not _takes(hints[name], type(value)):
                parser.error(f"the recipe has {name}: {'null' if value is None else value}, which {name} cannot be")
            actions[name].required = False
            parser.set_defaults(**{name: value})
        elif isinstance(value, list):
            if actions[name].nargs != "+":
                parser.error(f"the recipe has {name}: {value}, a list where one value is expected")
            from_file += [f"--{name}", *map(str, value)]
        else:
            from_file.append(f"--{name}={_spell(value)}")
    return parser, from_file + argv  # so that argparse converts and checks them all


def _fields_of_the_model(parser: _Parser) -> str:
    if all(action.dest != "model_config" for action in parser._actions):
        return ""
    return """; fields of the model's config go into model_config, such as --model_config '{"image_size": 48}'"""


def _takes(hint: Any, kind: type) -> bool:
    return any((get_origin(option) or option) is kind for option in get_args(hint) or (hint,))


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "no"  # YAML reads `no` as false, which also is the name of a strategy
    return str(value)


def _read_yaml(path: str, parser: HfArgumentParser) -> dict:
    if not os.path.isfile(path):
        parser.error(f"recipe {path!r} does not exist")
    with open(path, encoding="utf-8") as file:
        try:
            values = yaml.safe_load(file)
        except yaml.YAMLError as error:
            parser.error(f"recipe {path!r} is not valid YAML: {' '.join(str(error).split())}")
    if not isinstance(values, dict):
        parser.error(f"recipe {path!r} holds {type(values).__name__}, expected `field: value` lines")
    return values


__all__ = ["as_mapping", "given_fields", "parse_recipe"]
