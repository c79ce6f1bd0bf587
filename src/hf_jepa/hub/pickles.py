"""What a pickle would build, read off its operations: nothing is built, called or allocated.

`torch.load(weights_only=True)` runs no foreign code, but it calls what it allows with any arguments
(`torch.FloatTensor(10**10)`), allocates what a file claims before it looks for the bytes, and hashes tuples of any
depth, which ends the interpreter.
"""

import io
import pickletools
from dataclasses import dataclass
from typing import Any

from hf_jepa.core.key_map import ConversionError


MAX_BYTES = 2**24  # the largest official file, with the state of its optimizer, has about 2**20
MAX_OPERATIONS = 2_000_000
MAX_DEPTH = 64
# What PyTorch writes into checkpoints of tensors and plain values, and what its reader understands.
CALLS = {
    "collections OrderedDict",
    "collections Counter",
    "builtins set",
    "builtins complex",
    "__builtin__ set",
    "__builtin__ complex",
    "_codecs encode",
    "torch Size",
    "torch device",
    "torch.serialization _get_layout",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_qtensor",
}
OPERATIONS = {
    *("GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "BINPERSID", "PROTO", "STOP", "MARK"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "NONE", "NEWFALSE", "NEWTRUE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"),
    *("BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT"),
}
ITEM_BYTES = {
    "ComplexDoubleStorage": 16,
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("QInt8Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage"), 1),
}
FOREIGN = "it holds objects other than tensors and plain values, which loading would have to execute"
_MARK = object()


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names."""

    name: str


def claimed_storages(pickle: io.BytesIO) -> dict[str, int]:
    """Follow the operations of one pickle, up to its end.

    Args:
        pickle: at the first byte; afterwards behind the last.

    Returns:
        name of each storage of numbers -> the bytes that it is said to have.

    Raises:
        ConversionError: it would call something, is nested too deeply, too long, or makes no sense.

    Example:
        >>> import pickle
        >>> claimed_storages(io.BytesIO(pickle.dumps({"epoch": 3}, protocol=2)))
        {}
    """
    stack: list[tuple[int, Any]] = []  # depth and what is known of each object
    memo: dict[int, tuple[int, Any]] = {}
    claims: dict[str, int] = {}
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(pickle)):
            if number >= MAX_OPERATIONS:
                raise ConversionError(f"it has more than {MAX_OPERATIONS} operations, no checkpoint has so many")
            if operation.name not in OPERATIONS:
                raise ConversionError(f"{FOREIGN} ({operation.name})")
            _follow(operation, argument, stack, memo, claims)
            if stack and stack[-1][0] > MAX_DEPTH:
                raise ConversionError(f"it is nested more than {MAX_DEPTH} levels deep, no checkpoint is")
    except ConversionError:
        raise
    except (ValueError, LookupError, TypeError) as error:
        raise ConversionError(f"it is no pickle of PyTorch: {_first_line(error)}") from error
    return claims


def _follow(operation, argument: Any, stack: list, memo: dict, claims: dict[str, int]) -> None:
    """Do one operation on the stack of what is known."""
    name, before = operation.name, operation.stack_before
    if name.endswith("PUT"):
        memo[argument] = stack[-1]
    elif name.endswith("GET"):
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append((0, _MARK))
    elif pickletools.markobject in before:  # everything above the mark, and what lies below it
        parts = []
        while (part := stack.pop())[1] is not _MARK:
            parts.append(part)
        parts += [stack.pop() for _ in range(before.index(pickletools.markobject))]
        stack.append(_joined(name, parts[::-1]))
    elif before:
        parts = [stack.pop() for _ in before][::-1]
        if name in ("REDUCE", "NEWOBJ"):
            called = parts[0][1]
            if not isinstance(called, Global) or called.name not in CALLS:
                raise ConversionError(f"{FOREIGN} ({getattr(called, 'name', called)!r:.80})")
        if name == "BINPERSID":
            _claim(parts[0][1], claims)
        if operation.stack_after:
            stack.append(_joined(name, parts))
    elif operation.stack_after:
        stack.append((1, Global(argument) if name == "GLOBAL" else argument))


def _joined(name: str, parts: list[tuple[int, Any]]) -> tuple[int, Any]:
    depth = 1 + max((depth for depth, _ in parts), default=0)
    if name == "BUILD" or name in ("APPEND", "SETITEM", "APPENDS", "SETITEMS"):  # it changes the first, adds no level
        depth = max(parts[0][0], 1 + max((depth for depth, _ in parts[1:]), default=0))
    return depth, tuple(value for _, value in parts) if name.startswith("TUPLE") else None


def _claim(reference: Any, claims: dict[str, int]) -> None:
    """Note a storage: ("storage", its type, name, device, number of items, ...)."""
    if not isinstance(reference, tuple) or len(reference) < 5 or not isinstance(reference[1], Global):
        raise ConversionError("it refers to something that is no storage of numbers")
    _, kind, key, _, items = reference[:5]
    item_bytes = ITEM_BYTES.get(kind.name.rpartition(" ")[2])
    if item_bytes is None or not isinstance(items, int) or items < 0 or not isinstance(key, str):
        raise ConversionError(f"it claims a storage of {items!r:.40} items of {kind.name!r:.40}")
    size = items * item_bytes
    if claims.setdefault(key, size) != size:
        raise ConversionError(f"it claims two sizes for one storage, {claims[key]} and {size} bytes")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


__all__ = ["FOREIGN", "MAX_BYTES", "MAX_DEPTH", "claimed_storages"]
