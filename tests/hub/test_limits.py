"""Each limit refuses what is beyond it, before it is allocated, and lets through what is not."""

import io
import json
import pickle
import random
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from spoiled_files import rewrite_archive

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.files import (
    load_weights,
    read_config,
    read_json,
    read_torch_checkpoint,
    require_finite,
    save_weights,
    stored_shapes,
)
from hf_jepa.hub.limits import require_bounded, require_plain_name, require_plausible_fields
from hf_jepa.hub.pickles import claimed_storages
from hf_jepa.registry import VARIANTS


PROTOCOL = b"\x80\x02"
SHAPES = {"a": (8, 8), "b": (8,)}


def write(path: Path, program: bytes) -> Path:
    path.write_bytes(PROTOCOL + program)
    return path


# --- pickles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"ctorch\nFloatTensor\nJ\x00\xe4\x0bT\x85R.", "would have to execute .*FloatTensor"),
        (b"ctorch\nFloatTensor\nJ\x00\xe4\x0bT\x85\x81.", "would have to execute .*FloatTensor"),
        (b"cbuiltins\nbytearray\nJ\x00\xe4\x0bT\x85R.", "would have to execute .*bytearray"),
        (b"}2.", r"would have to execute \(DUP"),  # the look at what follows would no longer be sound
        (b"cposix\nsystem\n(S'true'\ntR.", "would have to execute"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(tR.", "would have to execute"),
        (b"}K\x01" + b"\x85" * 1_000_000 + b"K\x01s.", "nested more than"),
        (b"]" * 1000 + b"a" * 999 + b".", "nested more than"),
        (b"X\xff\xff\xff\x7fabc.", "no pickle of PyTorch"),
        (b"h\x05.", "no pickle of PyTorch"),
        (b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\xff\xff\xff\x7ftQ.",
         "claims 8589934588 bytes"),
    ],
    ids=["call", "new object", "bytearray", "foreign operation", "system", "subclass", "tuples", "lists", "long text",
         "memo", "claim"],
)  # fmt: skip
def test_hostile_pickles_are_refused_before_anything_is_built(tmp_path, program, message):
    tracemalloc.start()
    try:
        with pytest.raises(ConversionError, match=message):
            read_torch_checkpoint(write(tmp_path / "x.pth", program))
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_a_pickle_says_what_it_claims():
    state = {
        "w": torch.zeros(3, 4),
        "half": torch.zeros(5, dtype=torch.bfloat16),
        "epoch": 3,
        "done": (1, [2.0, None]),
    }
    file = io.BytesIO()
    torch.save(state, file)
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        assert sorted(claimed_storages(io.BytesIO(archive.read(name))).values()) == [10, 48]


def test_a_claim_is_compared_with_the_archive(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(64), "b": torch.ones(64)}, path)
    rewrite_archive(path, lambda name, content: (name, content[:8] if name.endswith("data/0") else content))
    with pytest.raises(ConversionError, match=r"claims 256 bytes for data/0, which has 8"):
        read_torch_checkpoint(path)


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/../../evil"])
def test_names_in_archives_stay_inside(tmp_path, name):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(4)}, path)
    rewrite_archive(path, lambda old, content: (name if old.endswith("data/0") else old, content))
    with pytest.raises(ConversionError, match="not the name of a file"):
        read_torch_checkpoint(path)


def test_a_tar_file_of_old_is_not_unpacked(tmp_path):
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("storages", "pickle", "../../unpacked"):
            archive.add(tmp_path / "evil", name)
    with pytest.raises(ConversionError, match="cannot be read"):
        read_torch_checkpoint(tmp_path / "x.tar")
    assert not list(tmp_path.parent.parent.glob("unpacked"))


def test_tensors_have_all_their_numbers(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "x.pt")
    with pytest.raises(ConversionError, match="takes 4000000000 bytes, of which the file has 4"):
        read_torch_checkpoint(tmp_path / "x.pt")
    shared = torch.zeros(10_000)
    torch.save({str(i): shared for i in range(20)}, tmp_path / "y.pt")
    with pytest.raises(ConversionError, match="gives tensors of 800000 bytes"):
        read_torch_checkpoint(tmp_path / "y.pt")
    torch.save({"encoder": shared, "target_encoder": shared}, tmp_path / "z.pt")
    assert torch.equal(read_torch_checkpoint(tmp_path / "z.pt")["encoder"], shared)


def test_checkpoints_of_both_layouts_are_read(tmp_path):
    content = {"encoder": {"w": torch.randn(3, 4)}, "opt": {"state": {0: {"step": 3}}, "lr": [1e-3]}, "none": None}
    for archive in (True, False):
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=archive)
        found = read_torch_checkpoint(tmp_path / "x.pt")
        assert torch.equal(found["encoder"]["w"], content["encoder"]["w"]) and found["opt"] == content["opt"]


def test_nested_values_are_bounded():
    shared: list = []
    for _ in range(20):
        shared = [shared, shared]
    with pytest.raises(ConversionError, match="more than 200000 entries"):
        require_bounded(shared, "x")
    itself: dict = {}
    itself["itself"] = itself
    with pytest.raises(ConversionError, match="nested more than"):
        require_bounded(itself, "x")
    require_bounded({"a": [{"b": (1, 2)}] * 1000}, "x")


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "..", "/etc/passwd", "../x", "a/../../x", "a\\..\\x", "c:x", "a\0b", "a/", 3, None]
)
def test_names_that_lead_out_are_refused(name):
    with pytest.raises(ConversionError, match="not the name of a file"):
        require_plain_name(name, "index")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny model in several shards."""
    variant = VARIANTS["ijepa"]
    config = variant.config_class()(**variant.tiny)
    state = variant.model_class()(config).state_dict()
    (tmp_path / "model").mkdir()
    config.save_pretrained(tmp_path / "model")
    assert len(save_weights(lambda: state, tmp_path / "model", shard_bytes=2**16)) > 2
    return tmp_path / "model"


def change_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("name", ["../secret.safetensors", "/secret.safetensors", "config.json"])
def test_an_index_names_files_of_its_folder(folder, name):
    save_file({"secret": torch.zeros(1)}, folder.parent / "secret.safetensors")
    key = "ijepa.layernorm.bias"
    change_json(folder / "model.safetensors.index.json", lambda index: index["weight_map"].update({key: name}))
    for read in (load_weights, stored_shapes, lambda path: read_config(VARIANTS["ijepa"].config_class(), path)):
        with pytest.raises(ConversionError, match="refused"):
            read(folder)


def test_an_index_says_what_is_there(folder):
    index = folder / "model.safetensors.index.json"
    assert stored_shapes(folder) == {key: tuple(value.shape) for key, value in load_weights(folder).items()}
    whole = index.read_text()
    change_json(index, lambda value: value["weight_map"].pop("ijepa.layernorm.bias"))
    with pytest.raises(ConversionError, match="does not hold what"):
        load_weights(folder)
    index.write_text(whole)
    shard = folder / next(iter(json.loads(whole)["weight_map"].values()))
    shard.rename(folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match="lacks model-"):
        load_weights(folder)
    index.unlink()
    with pytest.raises(FileNotFoundError, match="no model.safetensors.index.json"):
        load_weights(folder)


@pytest.mark.parametrize("claimed", [2**63, 2**40, 2**25])
def test_a_header_is_not_larger_than_its_file(folder, claimed):
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(struct.pack("<Q", claimed) + shard.read_bytes()[8:])
    with pytest.raises(ConversionError, match=f"claims a header of {claimed}"):
        load_weights(folder)


def test_integers_are_no_weights():
    with pytest.raises(ConversionError, match=r"not of floating-point numbers but torch\.int32: a"):
        require_finite({"a": torch.zeros(2, dtype=torch.int32)})


# --- configs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": 10**9},
        {"num_hidden_layers": 10**6},
        {"pred_num_hidden_layers": 10**6},
        {"num_hidden_layers": float("nan")},
        {"num_labels": 10**8},
        {"image_size": 10**6},
        {"image_size": [16, 10**6]},
        {"backbone_config": {"depths": [2, 10**5]}},
        {"initializer_range": float("inf")},
        {"levels": [0] * 10_000},
        {"anything": 10**12},
    ],
    ids=str,
)
def test_absurd_numbers_are_refused_before_a_model_is_built(folder, fields):
    with pytest.raises(ConversionError, match=next(reversed(json.dumps(fields).split('"')[1::2]))):
        require_plausible_fields(fields, "config.json", SHAPES)
    change_json(folder / "config.json", lambda config: config.update(fields))
    with pytest.raises(ConversionError, match=r"config\.json"):
        read_config(VARIANTS["ijepa"].config_class(), folder)


def test_a_model_is_not_far_larger_than_its_weights(folder):
    """Each number is one that some model has."""
    change_json(folder / "config.json", lambda config: config.update(hidden_size=4096, intermediate_size=16384))
    with pytest.raises(ConversionError, match="describes a model of .* numbers, but the folder has"):
        read_config(VARIANTS["ijepa"].config_class(), folder)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.base_model])
def test_real_configs_are_plausible(name, tmp_path):
    variant = VARIANTS[name]
    model = variant.model_class()(variant.config_class()(**variant.tiny))
    model.save_pretrained(tmp_path)
    assert read_config(variant.config_class(), tmp_path).model_type == model.config.model_type


def test_sizes_of_large_models_are_plausible():
    large = {"vocab_size": 256_000, "hidden_size": 8192, "num_hidden_layers": 126, "max_position_embeddings": 10**7}
    more = {
        "rope_theta": 5e5,
        "eos_token_id": [128_001, 128_009],
        "id2label": {"0": "a"},
        "label2id": {"num_layers": 10**7},
    }
    require_plausible_fields(large | more, "config.json", {"embed": (256_000, 8192)})


@pytest.mark.parametrize(
    "reference", ["../evil--m.Model", "/etc/x.Model", "os.path;x", 3, "..m.Model", ["m.A", "../m.B"]]
)
def test_code_is_not_named_by_paths(reference):
    with pytest.raises(ConversionError, match="auto_map"):
        require_plausible_fields({"auto_map": {"AutoModel": reference}}, "config.json")
    require_plausible_fields(
        {"auto_map": {"AutoModel": "modeling.Model", "A": "user/repo--m.M", "T": [None, "t.T"]}}, "x"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("[" * 100_000, "nested too deeply"), ('{"a":' * 70 + "1" + "}" * 70, "levels deep"), ("{", "not a config"),
     ("[]", "holds a list"), ('{"a": [' + "0," * 300_000 + "0]}", "entries")],
    ids=["deep", "rather deep", "cut", "list", "long"],
)  # fmt: skip
def test_json_is_bounded(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConversionError, match=message):
        read_json(tmp_path / "config.json", "a config")


def test_large_json_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"a": "' + "x" * 10_000 + '"}')
    monkeypatch.setattr("hf_jepa.hub.files.MAX_JSON_BYTES", 1000)
    with pytest.raises(ConversionError, match="more than 1000"):
        read_json(tmp_path / "config.json", "a config")


def test_random_operations_never_end_the_interpreter(tmp_path):
    """Whatever the first look lets through, the reader of PyTorch reads or refuses in an orderly way."""
    rng = random.Random(0)
    pieces = [b"]", b"(", b"}", b"\x85", b"R", b"e", b"u", b"s", b"a", b"t", b"K\x01", b"q\x00", b"h\x00", b"N", b")",
              b"ccollections\nOrderedDict\n", b"b", b"\x81", b"X\x01\x00\x00\x00a"]  # fmt: skip
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    for _ in range(300):
        program = b"".join(rng.choice(pieces) for _ in range(rng.randrange(30)))
        (tmp_path / "x.pth").write_bytes(head + PROTOCOL + program + b".")
        with pytest.raises(ConversionError):  # none of them has the names and numbers that follow
            read_torch_checkpoint(tmp_path / "x.pth")
