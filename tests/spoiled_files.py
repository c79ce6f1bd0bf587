"""Ways to spoil official files and folders of ours, for fuzzing: each draws what it does from a generator.

A mutation of an official file gets its content and the path to write; one of a folder gets a folder of its own.
Both return whether values were rounded, which is the one thing that a result may differ by.
"""

import json
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch


Checkpoint = dict


# --- bytes ----------------------------------------------------------------------------------------------------------


def truncate(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.choice([rng.randrange(len(content)), rng.randrange(64), len(content) - 1])])


def flip_bits(rng: random.Random, path: Path, first: int = 0, last: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 8])):
        content[rng.randrange(first, last or len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


# --- official files -------------------------------------------------------------------------------------------------


def _state(rng: random.Random, official: Checkpoint) -> dict:
    return official[rng.choice([name for name, value in official.items() if isinstance(value, dict) and value])]


def _tensor(rng: random.Random, official: Checkpoint) -> tuple[dict, str]:
    names = [
        name
        for name, value in official.items()
        if isinstance(value, dict) and any(isinstance(v, torch.Tensor) for v in value.values())
    ]
    state = official[rng.choice(names)]
    return state, rng.choice([key for key, value in state.items() if isinstance(value, torch.Tensor)])


def cut_file(rng, official, path):
    torch.save(official, path)
    truncate(rng, path)


def flipped_file(rng, official, path):
    torch.save(official, path)
    size = path.stat().st_size
    ends = rng.choice([(0, None), (0, 2000), (size - 3000, None)])  # anywhere, the pickle, the archive's directory
    flip_bits(rng, path, *ends)


def dropped_entry(rng, official, path):
    del official[rng.choice(list(official))]
    torch.save(official, path)


def renamed_entry(rng, official, path):
    name = rng.choice(list(official))
    official[rng.choice([f"{name}_old", "target_encoder", "", 7, "classifiers"])] = official.pop(name)
    torch.save(official, path)


def dropped_tensor(rng, official, path):
    state, key = _tensor(rng, official)
    del state[key]
    torch.save(official, path)


def renamed_tensor(rng, official, path):
    state, key = _tensor(rng, official)
    names = [
        f"{key}.x",
        key.replace("0", "999999999999"),
        key.upper(),
        "../../x",
        3,
        (1, 2),
        f"module.{key}",
        "a" * 9999,
    ]
    state[rng.choice(names)] = state.pop(key)
    torch.save(official, path)


def duplicated_tensor(rng, official, path):
    state, key = _tensor(rng, official)
    state[rng.choice([f"module.{key}", f"backbone.{key}", f"{key} ", key.removeprefix("module.")])] = state[
        key
    ].clone()
    torch.save(official, path)


def other_shape(rng, official, path):
    state, key = _tensor(rng, official)
    value = state[key]
    shapes = [
        value[None],
        value.flatten()[:-1],
        torch.cat([value, value]),
        value[:0],
        torch.zeros(()),
        value[..., None],
    ]
    state[key] = rng.choice(shapes).clone()
    torch.save(official, path)


def other_dtype(rng, official, path):
    state, key = _tensor(rng, official)
    kinds = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.complex64, torch.bool, torch.uint8]
    state[key] = state[key].to(rng.choice(kinds))
    torch.save(official, path)
    return True


def not_finite(rng, official, path):
    state, key = _tensor(rng, official)
    state[key] = state[key].clone()
    state[key].view(-1)[rng.randrange(state[key].numel())] = rng.choice([float("nan"), float("inf"), -float("inf")])
    torch.save(official, path)


def nested_file(rng, official, path):
    value: object = 0
    kind = rng.choice(["list", "dict", "tuple"])
    for _ in range(rng.choice([3, 70, 300])):
        value = {"list": [value], "dict": {"x": value}, "tuple": (value,)}[kind]
    official[rng.choice([*official, "extra"])] = value
    torch.save(official, path)


def wrong_type(rng, official, path):
    wrong = [
        None,
        3,
        "text",
        [],
        {},
        [1, 2],
        {"x": 1},
        torch.zeros(2),
        {"x": {"y": torch.zeros(1)}},
        1e300,
        set(),
        b"x",
    ]
    where = rng.choice(["entry", "tensor", "all"])
    if where == "all":
        torch.save(rng.choice(wrong), path)
        return
    state, key = _tensor(rng, official) if where == "tensor" else (official, rng.choice(list(official)))
    state[key] = rng.choice(wrong)
    torch.save(official, path)


def odd_tensor(rng, official, path):
    state, key = _tensor(rng, official)
    value = state[key]
    huge = torch.zeros(1).expand(rng.choice([10**6, 10**9]), 1000)
    quantized = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)
    state[key] = rng.choice([huge, value.to_sparse(), value.to("meta"), quantized, torch.nn.Parameter(value[None])])
    torch.save(official, path)


class Calls:
    """A pickle that calls something when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile_object(rng, official, path):
    trace = path.parent / "was-run"
    calls = [
        Calls(Path.touch, trace),
        Calls(eval, f"open({str(trace)!r}, 'w')"),
        Calls(exec, f"open({str(trace)!r}, 'w')"),
        Calls(bytearray, 10**10),
        Calls(torch.FloatTensor, 10**9),
        Calls(torch.UntypedStorage, 2 * 10**9),
        Calls(torch.load, str(path)),
        Calls(getattr, official, "clear"),
    ]
    name = rng.choice([*official, "extra"])
    official[name] = rng.choice(calls)
    if rng.random() < 0.5:
        torch.save(official, path)
    else:
        path.write_bytes(pickle.dumps({name: official[name]}, protocol=2))


def hostile_operations(rng, official, path):
    """Pickles that no program writes, in the layout without archive and in an archive."""
    laughs = b"]q\x00" + b"".join(b"]q%c(%se" % (i + 1, b"h%c" % i * 4) for i in range(30))
    programs = [
        b"}K\x01" + b"\x85" * rng.choice([100, 1_000_000]) + b"K\x01s.",  # the hash of a deep tuple
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"(" * 100_000 + b"t" * 100_000 + b".",
        laughs + b"}X\x07\x00\x00\x00encoderh\x1es.",
        b"}q\x00X\x01\x00\x00\x00xh\x00s.",  # it contains itself
        b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.",
        b"ctorch\nFloatTensor\nJ\x00\xe4\x0bT\x85R.",
        b"cbuiltins\nbytearray\nJ\x00\xe4\x0bT\x85R.",
        b"cposix\nsystem\n(S'touch %s'\ntR." % str(path.parent / "was-run").encode(),
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\xff\xff\xff\x7ftQ.",
        b"X\xff\xff\xff\x7fabc.",
        b"r\xff\xff\xff\x7f.",
        bytes(rng.randrange(256) for _ in range(rng.randrange(200))),
        b"".join(
            rng.choice([b"]", b"(", b"}", b"\x85", b"R", b"Q", b"e", b"u", b"K\x01", b"h\x00"]) for _ in range(50)
        ),
    ]
    program = b"\x80\x02" + rng.choice(programs)
    if rng.random() < 0.5:
        magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
        path.write_bytes(magic + pickle.dumps(1001, protocol=2) + pickle.dumps({}, protocol=2) + program)
        return
    torch.save(official, path)
    rewrite_archive(path, lambda name, content: (name, program if name.endswith("data.pkl") else content))


def rewrite_archive(path: Path, change, compression=zipfile.ZIP_STORED, twice: bool = False) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries + entries[-1:] * twice:
            archive.writestr(*change(name, content))


def odd_archive(rng, official, path):
    torch.save(official, path)
    bad = rng.choice(["../../evil", "/evil", "..\\evil", "a/../../evil", "c:evil"])
    chosen = rng.randrange(4)
    if chosen == 0:  # an entry that would be written elsewhere by whoever unpacks the archive
        rewrite_archive(path, lambda name, content: (bad if name.endswith("/data/1") else name, content))
    elif chosen == 1:
        rewrite_archive(path, lambda name, content: (name, content), twice=True)
    elif chosen == 2:
        rewrite_archive(path, lambda name, content: (name, content), zipfile.ZIP_DEFLATED)
    else:  # numbers that are fewer than the pickle says
        rewrite_archive(path, lambda name, content: (name, content[:8] if "/data/" in name else content))


def old_layout(rng, official, path):
    torch.save(official, path, _use_new_zipfile_serialization=False)
    if rng.random() < 0.6:  # no bits are flipped: the layout has no checksums, and nobody could tell
        truncate(rng, path)


FILE_MUTATIONS = (
    cut_file, flipped_file, dropped_entry, renamed_entry, dropped_tensor, renamed_tensor, duplicated_tensor,
    other_shape, other_dtype, not_finite, nested_file, wrong_type, odd_tensor, hostile_object, hostile_operations,
    odd_archive, old_layout,
)  # fmt: skip


# --- folders of ours ------------------------------------------------------------------------------------------------


def _weights(rng: random.Random, folder: Path) -> Path:
    return rng.choice(sorted(folder.glob("model*.safetensors")))


def _header(path: Path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _write(path: Path, header: bytes, data: bytes, claimed: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if claimed is None else claimed) + header + data)


def cut_weights(rng, folder):
    truncate(rng, _weights(rng, folder))


def flipped_header(rng, folder):
    """In the data there is no telling: the format has no checksums, those of the Hub are beside it."""
    path = _weights(rng, folder)
    flip_bits(rng, path, 0, 8 + int.from_bytes(path.read_bytes()[:8], "little"))


def other_header(rng, folder):
    path = _weights(rng, folder)
    header, data = _header(path)
    key = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[key]
    changes = [
        lambda: header.pop(key),
        lambda: header.update({f"{key}.x": header.pop(key)}),
        lambda: header.update({"../../evil": header.pop(key)}),
        lambda: header.update({f"{key}.copy": dict(entry)}),
        lambda: entry.update(shape=[*entry["shape"], 1]),
        lambda: entry.update(shape=[2**40, 2**40]),
        lambda: entry.update(shape=[-1]),
        lambda: entry.update(shape="x"),
        lambda: entry.update(dtype=rng.choice(["I32", "U32", "F64", "F16", "BF16", "X", 3])),
        lambda: entry.update(data_offsets=[0, 2**60]),
        lambda: entry.update(data_offsets=[2**60, 0]),
        lambda: header.update(__metadata__=rng.choice([{"format": "pickle"}, {"format": 3}, [], None])),
    ]
    rng.choice(changes)()
    _write(path, json.dumps(header).encode(), data)


def odd_header(rng, folder):
    path = _weights(rng, folder)
    header, data = _header(path)
    text = json.dumps(header).encode()
    key = json.dumps(next(key for key in header if key != "__metadata__")).encode()
    twice = b"{" + key + b": " + json.dumps(header[json.loads(key)]).encode() + b", " + text[1:]
    headers = [b"[" * 100_000, b'{"a":' * 100_000, b"null", b"", b"\xff" * 50, twice, text[:-1], text + b" " * 3]
    claims = [None, 2**63, 2**30, 0, len(text) + len(data) + 1]
    if rng.random() < 0.6:
        _write(path, rng.choice(headers), data)
    else:
        _write(path, text, data, rng.choice(claims))


def not_finite_weights(rng, folder):
    path = _weights(rng, folder)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    place = start + 4 * rng.randrange((len(content) - start) // 4)
    content[place : place + 4] = struct.pack("<f", rng.choice([float("nan"), float("inf")]))
    path.write_bytes(content)


def wrong_config(rng, folder):
    fields = json.loads((folder / "config.json").read_text())
    numbers = [name for name, value in fields.items() if isinstance(value, int) and not isinstance(value, bool)]
    absurd = [10**9, 10**6, -1, 0, 2**62, 10**30, 1e300, float("nan"), float("inf"), 3, 70_000]
    wrong = [None, "x", [], {}, [1, 2], {"x": 1}, True, "1" * 10_000, [10**9] * 3]
    chosen = rng.random()
    if chosen < 0.5:
        fields[rng.choice([*numbers, "num_labels"])] = rng.choice(absurd)
    elif chosen < 0.8:
        fields[rng.choice(list(fields))] = rng.choice(wrong)
    else:
        del fields[rng.choice(list(fields))]
    (folder / "config.json").write_text(json.dumps(fields))


def odd_config(rng, folder):
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    references = [
        "../../evil--m.Model",
        "/etc/passwd.Model",
        "..Model",
        "a/../../b.M",
        3,
        "os.path;x",
        "evil/code--m.M",
    ]
    contents = [
        lambda: "[" * 100_000,
        lambda: '{"a":' * 100_000 + "1" + "}" * 100_000,
        lambda: '{"a":' * 70 + "1" + "}" * 70,
        lambda: "[]",
        lambda: "",
        lambda: "\x00",
        lambda: json.dumps(fields | {"auto_map": {"AutoModel": rng.choice(references)}}),
        lambda: json.dumps(fields | {"model_type": rng.choice(["bert", "../x", "", 3, None, "llama"])}),
        lambda: json.dumps(fields | {"architectures": rng.choice([3, "os.system", [3], {"x": 1}])}),
        lambda: json.dumps(fields | {"quantization_config": rng.choice([3, {"quant_method": "x"}])}),
        lambda: json.dumps(fields | {"num_labels": 10**8}),
        lambda: json.dumps(
            fields | {"id2label": rng.choice([3, {"x": 1}, dict.fromkeys(map(str, range(110_000)), "a")])}
        ),
        lambda: json.dumps(fields)[:-20],
    ]
    path.write_text(rng.choice(contents)())


def odd_index(rng, folder):
    path = folder / "model.safetensors.index.json"
    if not path.exists():
        path = folder / "fingerprint.json"
        path.write_text(rng.choice(["[]", "{}", '{"shape": 3}', "[" * 5000, '{"shape": [1], "mean": "x"}', "\x00"]))
        return
    index = json.loads(path.read_text())
    places = index["weight_map"]
    key = rng.choice(list(places))
    outside = [
        "../../secret.safetensors",
        "/etc/passwd",
        "..\\x.safetensors",
        "x.safetensors",
        "config.json",
        3,
        None,
        "",
    ]
    changes = [
        lambda: places.update({key: rng.choice(outside)}),
        lambda: places.update({key: rng.choice(outside)}),
        lambda: places.pop(key),
        lambda: places.update({f"{key}.x": places.pop(key)}),
        lambda: places.update({key: next(name for name in places.values() if name != places[key])}),
        lambda: index.update(weight_map=rng.choice([3, [], {}, None])),
        lambda: index.pop("weight_map"),
        lambda: index.update(metadata=rng.choice([3, None, {"total_size": 10**18}])),
    ]
    rng.choice(changes)()
    path.write_text(json.dumps(index)[: rng.choice([None, None, None, 30])])


FOLDER_MUTATIONS = (
    cut_weights, flipped_header, other_header, odd_header, not_finite_weights, wrong_config, odd_config, odd_index,
)  # fmt: skip
MUTATIONS = (*FILE_MUTATIONS, *FOLDER_MUTATIONS)


def copied(official: Checkpoint) -> Checkpoint:
    """A copy whose entries can be changed; tensors are shared."""
    return {
        name: OrderedDict(value)
        if isinstance(value, OrderedDict)
        else dict(value)
        if isinstance(value, dict)
        else value
        for name, value in official.items()
    }
