"""Reading a recipe: a YAML file whose values the command line may override."""

import os
from collections.abc import Sequence

import yaml
from transformers import HfArgumentParser


class _Parser(HfArgumentParser):
    def error(self, message: str):  # one line, without the usage of a hundred options
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse_recipe(dataclass_types: Sequence[type], argv: Sequence[str], description: str | None = None) -> tuple:
    """Fill dataclasses from `[recipe.yaml] [--field value ...]`; the command line wins over the file.

    Args:
        dataclass_types: one dataclass per section of the recipe. The YAML file is flat: field name -> value.
        argv: the arguments, without the program's name.
        description: what `--help` says the script does.

    Returns:
        one instance per dataclass type.

    Raises:
        SystemExit: status 2 and one line on stderr for a missing or unreadable file and for unknown fields.
    """
    parser = _Parser(dataclass_types, description=description)
    argv = list(argv)
    if argv and not argv[0].startswith("-"):
        values = _read_yaml(argv.pop(0), parser)
        actions = {action.dest: action for action in parser._actions}
        if unknown := sorted(set(values) - set(actions)):
            parser.error(f"the recipe has unknown fields: {', '.join(unknown)}")
        for name in values:
            actions[name].required = False
        parser.set_defaults(**values)  # argparse converts string defaults ("1e-3") like arguments
    return parser.parse_args_into_dataclasses(args=argv)


def _read_yaml(path: str, parser: HfArgumentParser) -> dict:
    if not os.path.isfile(path):
        parser.error(f"recipe {path!r} does not exist")
    with open(path, encoding="utf-8") as file:
        try:
            values = yaml.safe_load(file)
        except yaml.YAMLError as error:
            parser.error(f"recipe {path!r} is not valid YAML: {error}")
    if not isinstance(values, dict):
        parser.error(f"recipe {path!r} holds {type(values).__name__}, expected `field: value` lines")
    return values


__all__ = ["parse_recipe"]
