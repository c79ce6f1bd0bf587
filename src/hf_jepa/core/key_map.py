"""Two-way, strict maps between the keys of an official checkpoint and the names of our modules."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch


class ConversionError(ValueError):
    """A checkpoint that cannot be converted; the message names the keys and what to do."""


@dataclass(frozen=True)
class Rename:
    """One tensor under another name. `{i}` stands for a number, `*` for the rest of a key.

    Args:
        official, ours: templates with the same placeholders.
    """

    official: str
    ours: str


@dataclass(frozen=True)
class Split:
    """One official tensor that is several of ours, stacked along the first dimension.

    Args:
        official: template of the fused tensor.
        ours: templates of its equal parts, in order.
    """

    official: str
    ours: tuple[str, ...]


@dataclass(frozen=True)
class Stack:
    """Several official tensors of one shape, numbered from 0, that are one of ours.

    Args:
        official: template with `{i}`, the index along the new first dimension.
        ours: the name of the stacked tensor.
    """

    official: str
    ours: str


@dataclass(frozen=True)
class Drop:
    """An official tensor that the model has no use for; the way back does not write it.

    Args:
        official: template.
    """

    official: str


@dataclass(frozen=True)
class KeyMap:
    """A table of rules that converts whole state dicts in both directions.

    Args:
        rules: every key must match exactly one of them.

    Example:
        >>> import torch
        >>> fused = Split("blocks.{i}.qkv.*", ("q.{i}.*", "k.{i}.*", "v.{i}.*"))
        >>> table = KeyMap((Rename("norm.*", "layernorm.*"), fused))
        >>> ours = table.to_ours({"norm.bias": torch.zeros(2), "blocks.3.qkv.bias": torch.arange(6)})
        >>> sorted(ours), ours["k.3.bias"].tolist()
        (['k.3.bias', 'layernorm.bias', 'q.3.bias', 'v.3.bias'], [2, 3])
        >>> sorted(table.to_official(ours))
        ['blocks.3.qkv.bias', 'norm.bias']
    """

    rules: tuple[Rename | Split | Stack | Drop, ...]

    def to_ours(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert official tensors; the parts of a fused tensor are views of it.

        Raises:
            ConversionError: a key that no rule knows, a fused tensor that does not divide into its parts, or numbered
                tensors that are not 0, 1, 2, ... or differ in shape.
        """
        ours: dict[str, torch.Tensor] = {}
        stacks: dict[str, dict[int, torch.Tensor]] = {}
        for rule, match, key in self._matches(state, official=True):
            if isinstance(rule, Drop):
                continue
            if isinstance(rule, Stack):
                stacks.setdefault(rule.ours, {})[int(match["i"])] = state[key]
                continue
            if isinstance(rule, Rename):
                ours[_fill(rule.ours, match)] = state[key]
                continue
            if state[key].ndim == 0 or len(state[key]) % len(rule.ours):
                raise ConversionError(f"{key} of shape {tuple(state[key].shape)} does not split into {len(rule.ours)}")
            for template, part in zip(rule.ours, state[key].chunk(len(rule.ours)), strict=True):
                ours[_fill(template, match)] = part
        return ours | {name: _stacked(name, numbered) for name, numbered in stacks.items()}

    def to_official(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert our tensors back.

        Raises:
            ConversionError: a key that no rule knows, or a fused tensor of which parts are missing.
        """
        official: dict[str, torch.Tensor] = {}
        for rule, match, key in self._matches(state, official=False):
            if isinstance(rule, Stack):
                official |= {rule.official.replace("{i}", str(i)): part for i, part in enumerate(state[key])}
                continue
            if isinstance(rule, Rename):
                official[_fill(rule.official, match)] = state[key]
                continue
            parts = [_fill(template, match) for template in rule.ours]
            if missing := [part for part in parts if part not in state]:
                raise ConversionError(
                    f"{key} belongs to {_fill(rule.official, match)}, of which {missing} are missing"
                )
            if key == parts[0]:  # the other parts come along with the first
                official[_fill(rule.official, match)] = torch.cat([state[part] for part in parts])
        return official

    def dropped(self, keys: Iterable[str]) -> list[str]:
        """The official keys that are left out on purpose."""
        return [key for key in keys if any(_pattern(r.official).fullmatch(key) for r in self.rules if _drops(r))]

    def _matches(self, keys: Iterable[str], official: bool):
        """(rule, match, key) for every key, in order."""
        patterns = []
        for rule in self.rules:
            if _drops(rule) and not official:
                continue
            templates = (rule.official,) if official else rule.ours if isinstance(rule, Split) else (rule.ours,)
            patterns += [(rule, _pattern(template)) for template in templates]
        unknown = []
        for key in keys:
            found = next(((rule, match) for rule, pattern in patterns if (match := pattern.fullmatch(key))), None)
            if found is None:
                unknown.append(key)
            else:
                yield *found, key
        if unknown:
            raise ConversionError(f"{len(unknown)} keys have no place in this architecture: {some(unknown)}")


def require_same_keys(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], what: str) -> None:
    """Check that a converted state dict is exactly that of a model.

    Args:
        state: converted tensors.
        expected: the state dict of the model, on the meta device.
        what: the part of the checkpoint, for the message.

    Raises:
        ConversionError: keys are missing or too many, or shapes differ.
    """
    missing, unexpected = [k for k in expected if k not in state], [k for k in state if k not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} keys are missing: {some(missing)}")
    if unexpected:
        problems.append(f"{len(unexpected)} keys are unexpected: {some(unexpected)}")
    if shapes:
        problems.append(f"{len(shapes)} shapes differ: {some(shapes)}")
    if problems:
        raise ConversionError(f"the {what} does not fit the architecture: {'; '.join(problems)}")


def some(names: list[str], count: int = 5) -> str:
    """The first few of a list, for a message, and of long names the beginning."""
    return ", ".join(name if len(name) <= 200 else f"{name[:200]}..." for name in names[:count]) + (
        ", ..." if len(names) > count else ""
    )


def _drops(rule: Rename | Split | Stack | Drop) -> bool:
    return isinstance(rule, Drop)


def _stacked(name: str, numbered: Mapping[int, torch.Tensor]) -> torch.Tensor:
    if missing := [i for i in range(len(numbered)) if i not in numbered]:
        raise ConversionError(
            f"{name} is made of tensors numbered {sorted(numbered)[:5]} ...: {missing[0]} is missing"
        )
    shapes = {tuple(value.shape) for value in numbered.values()}
    if len(shapes) > 1 or len({value.dtype for value in numbered.values()}) > 1:
        raise ConversionError(f"{name} is made of tensors that differ in shape or type: {sorted(shapes)}")
    return torch.stack([numbered[i] for i in range(len(numbered))])


def _pattern(template: str) -> re.Pattern:
    pattern = re.escape(template).replace(r"\{i\}", "(?P<i>0|[1-9][0-9]*)").replace(r"\*", r"(?P<rest>.+)")
    return re.compile(pattern)


def _fill(template: str, match: re.Match) -> str:
    groups = match.groupdict()
    return template.replace("{i}", groups.get("i", "")).replace("*", groups.get("rest", ""))


__all__ = ["ConversionError", "Drop", "KeyMap", "Rename", "Split", "Stack", "require_same_keys", "some"]
