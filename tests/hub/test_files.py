"""Files that lie are refused, and nobody else's files are touched."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.files import is_finite, load_weights, new_folder, new_name, read_torch_checkpoint, save_weights


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(0)
    torch.save({"encoder": {"weight": torch.randn(64, 64)}}, tmp_path / "x.pth.tar")
    return tmp_path / "x.pth.tar"


def test_flipped_bytes_are_noticed(checkpoint):
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 0xFF
    checkpoint.write_bytes(content)
    with pytest.raises(ConversionError, match="checksum"):
        read_torch_checkpoint(checkpoint)


def test_compressed_archives_are_refused_unopened(checkpoint, tmp_path):
    """Mapped, their packed bytes would be taken for numbers; unpacked, they may be a bomb."""
    packed = tmp_path / "packed.pth.tar"
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(ConversionError, match="compressed"):
        read_torch_checkpoint(packed)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"h\x05.", id="KeyError"),
        pytest.param(b"R.", id="IndexError"),
        pytest.param(b"\x80\x02}]K\x01s.", id="TypeError"),
        pytest.param(b"ccollections\nOrderedDict\n)R](K\x01\x85eb.", id="ValueError"),
        pytest.param(b"ctorch._utils\n_rebuild_tensor_v2\n(K\x05K\x00K\x01\x85K\x01\x85\x89}tR.", id="AttributeError"),
    ],
)
def test_pickles_that_make_no_sense_are_refused_by_name(tmp_path, content):
    """The reader of PyTorch trips over them, each in its own way."""
    (tmp_path / "x.pth").write_bytes(b"\x80\x02" + content)
    with pytest.raises(ConversionError, match=r"x\.pth cannot be read"):
        read_torch_checkpoint(tmp_path / "x.pth")


def test_an_output_appears_whole_and_leaves_its_neighbours_alone(tmp_path):
    (tmp_path / "model.tmp").mkdir()
    (tmp_path / "model.tmp" / "precious").write_text("mine")
    with pytest.raises(RuntimeError, match="half way"), new_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("half")
        raise RuntimeError("half way")
    assert [path.name for path in tmp_path.iterdir()] == ["model.tmp"]
    with new_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("whole")
        assert not (tmp_path / "model").exists()
    with new_name(tmp_path / "file") as name:
        name.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "model", "model.tmp"}
    assert (tmp_path / "model.tmp" / "precious").read_text() == "mine"
    with pytest.raises(FileExistsError, match="not an empty folder"), new_folder(tmp_path / "model"):
        pass


def test_an_empty_folder_that_exists_is_filled_and_not_replaced(tmp_path, monkeypatch):
    """It may be a mount point, which can be neither removed nor renamed over."""
    mount = tmp_path / "mount"
    mount.mkdir()
    monkeypatch.setattr(Path, "rmdir", lambda path: pytest.fail(f"{path} was removed"))
    number = mount.stat().st_ino
    with pytest.raises(RuntimeError, match="half way"), new_folder(mount) as folder:
        (folder / "weights").write_text("half")
        raise RuntimeError("half way")
    assert list(mount.iterdir()) == []
    with new_folder(mount) as folder:
        (folder / "weights").write_text("whole")
        (folder / "parts").mkdir()
        (folder / "parts" / "one").write_text("whole")
        assert not (mount / "weights").exists()
    assert mount.stat().st_ino == number and [path.name for path in tmp_path.iterdir()] == ["mount"]
    assert {path.name for path in mount.rglob("*")} == {"weights", "parts", "one"}


def test_shards_hold_everything_once_and_are_read_one_by_one(tmp_path):
    fused = torch.arange(24.0).reshape(6, 4)
    state = {"q": fused[:3], "k": fused[3:], "conv": torch.randn(8, 3, 4, 4).to(memory_format=torch.channels_last)}
    reads = []
    names = save_weights(lambda: reads.append(1) or dict(state), tmp_path, shard_bytes=100)
    assert names == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert len(reads) == 1 + len(names)
    assert set(load_file(tmp_path / names[0])) == {"q", "k"}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in state.values())
    assert index["weight_map"] == {"q": names[0], "k": names[0], "conv": names[1]}
    found = load_weights(tmp_path)
    assert set(found) == set(state) and all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8], ids=str)
def test_finite_numbers_are_told_in_every_type(dtype):
    assert is_finite(torch.ones(2).to(dtype))
    if dtype.is_floating_point:
        assert not is_finite(torch.tensor([1.0, float("nan")]).to(dtype))


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_weights(tmp_path)
