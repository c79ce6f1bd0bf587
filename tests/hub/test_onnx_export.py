"""ONNX files compute in onnxruntime what the encoders compute, for any batch and, where they can, any size."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import OF_ANY_SIZE, RESNET, WITH_ENCODER, assert_equal_outputs, assert_equal_sizes, each, encoder_of
from safetensors.torch import load_file

import hf_jepa
from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub import onnx_export
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.hub.onnx_export import export_onnx
from hf_jepa.hub.torch_export import ONE_SIZE, example_input
from hf_jepa.registry import VARIANTS


pytestmark = pytest.mark.hub
onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")


GOLDEN = Path(__file__).parents[1] / "fixtures/golden"


def written(name, encoder, folder, **options):
    """A file, and what onnxruntime computes from it: a tensor to a dictionary."""
    path = folder / "encoder.onnx"
    export_onnx(VARIANTS[name], encoder, path, **options)
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]

    def graph(inputs):
        outputs = session.run(None, {encoder.main_input_name: inputs.numpy()})
        return {name: torch.from_numpy(array) for name, array in zip(names, outputs, strict=True)}

    return graph, session


@pytest.mark.parametrize("name", each(WITH_ENCODER, "data2vec_text"))
def test_a_file_takes_any_batch(name, tmp_path):
    encoder = encoder_of(name)
    encoder.train()
    graph, _ = written(name, encoder, tmp_path)
    assert encoder.training
    encoder.eval()
    for batch in (1, 2, 5):
        assert assert_equal_outputs(graph, encoder, example_input(encoder, batch)).shape[0] == batch


@pytest.mark.parametrize("name", each(OF_ANY_SIZE, "ijepa"))
def test_a_file_takes_any_size(name, tmp_path):
    encoder = encoder_of(name)
    graph, _ = written(name, encoder, tmp_path, any_size=True)
    assert_equal_sizes(graph, encoder)


OFFICIAL = {  # golden case, what its tensors do not tell, the name of its input
    "ijepa": ("encoder_forward", {"num_attention_heads": 4}, "images"),
    "vjepa": ("encoder", {"num_attention_heads": 4}, "video"),
    "vjepa2": (
        "encoder",
        {"num_attention_heads": 2, "pred_num_attention_heads": 2, "crop_size": 32, "frames_per_clip": 8},
        "video",
    ),
}


@pytest.mark.parametrize("name", each(OFFICIAL, "ijepa"))
def test_a_file_gives_the_numbers_of_the_official_code(name, tmp_path):
    variant, (case, fields, taken) = VARIANTS[name], OFFICIAL[name]
    official = read_torch_checkpoint(GOLDEN / name / case / "checkpoint.pt")
    config = variant.layout.infer_config(official, **fields)
    state, place = variant.layout.convert(official, config, "encoder"), f"{variant.layout.target_part}."
    encoder = variant.encoder_of(variant.model_class(variant.base_model)(config))
    encoder.load_state_dict({key.removeprefix(place): v for key, v in state.items() if key.startswith(place)})
    graph, _ = written(name, encoder, tmp_path, any_size=True)
    compared = 0
    for io in map(load_file, sorted((GOLDEN / name / case).glob("io*.safetensors"))):
        for found in [key for key in io if key == taken or re.fullmatch(rf"{taken}_\d+x\d+", key)]:
            samples = io[found] if variant.modality == "image" else io[found].transpose(1, 2).contiguous()
            expected = io[found.replace(taken, "last_hidden_state")]
            torch.testing.assert_close(graph(samples)["last_hidden_state"], expected, rtol=1e-4, atol=1e-5)
            compared += 1
    assert compared > len(list((GOLDEN / name / case).glob("io_*")))


@pytest.mark.slow
def test_a_convolutional_backbone_takes_any_size(tmp_path):
    encoder = encoder_of("simsiam", backbone_config=RESNET)
    assert_equal_sizes(written("simsiam", encoder, tmp_path, any_size=True)[0], encoder)


@pytest.mark.parametrize("name", [*ONE_SIZE, "data2vec_audio", "data2vec_text"])
def test_what_cannot_be_of_any_size_is_not_written(name, tmp_path):
    with pytest.raises(ValueError, match="one size only"):
        export_onnx(VARIANTS[name], encoder_of(name), tmp_path / "encoder.onnx", any_size=True)
    assert not list(tmp_path.iterdir())


def test_a_file_says_what_it_is_and_nothing_of_this_machine(tmp_path):
    encoder = encoder_of("ijepa")
    _, session = written("ijepa", encoder, tmp_path, any_size=True)
    (inputs,), (outputs,) = session.get_inputs(), session.get_outputs()
    assert (inputs.name, inputs.shape) == ("pixel_values", ["batch", 3, "4*rows", "4*columns"])
    assert (outputs.name, outputs.shape[0], outputs.shape[2]) == ("last_hidden_state", "batch", 32)
    told = json.loads(session.get_modelmeta().custom_metadata_map["hf_jepa"])
    versions = {"hf_jepa": hf_jepa.__version__, "torch": torch.__version__}
    assert told == {"variant": "ijepa", "inputs": [-1, 3, -1, -1]} | versions
    content = (tmp_path / "encoder.onnx").read_bytes()
    for path in (Path(torch.__file__).parents[2], Path(hf_jepa.__file__).parents[1]):
        assert str(path).encode() not in content
    weights = sum(parameter.nbytes for parameter in encoder.state_dict().values())
    assert len(content) < weights + 100_000
    onnx.checker.check_model(tmp_path / "encoder.onnx", full_check=True)


def test_a_file_runs_without_torch(tmp_path):
    encoder = encoder_of("ijepa")
    export_onnx(VARIANTS["ijepa"], encoder, tmp_path / "encoder.onnx")
    inputs = example_input(encoder, 3)
    np.save(tmp_path / "inputs.npy", inputs.numpy())
    code = """
import sys, numpy
sys.modules["hf_jepa"] = sys.modules["transformers"] = sys.modules["torch"] = None
import onnxruntime
session = onnxruntime.InferenceSession("encoder.onnx")
numpy.save("out.npy", session.run(["last_hidden_state"], {"pixel_values": numpy.load("inputs.npy")})[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        expected = encoder(inputs).last_hidden_state
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "out.npy")), expected, rtol=1e-5, atol=1e-5)


def test_weights_that_are_too_large_for_the_format_lie_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 1000)
    encoder = encoder_of("data2vec_text")
    (tmp_path / "first").mkdir()
    written("data2vec_text", encoder, tmp_path / "first")
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"encoder.onnx", "encoder.onnx.data"}
    (tmp_path / "first").rename(tmp_path / "elsewhere")  # the file names the other by its name alone
    session = onnxruntime.InferenceSession(tmp_path / "elsewhere" / "encoder.onnx")
    inputs = example_input(encoder, 3)
    with torch.no_grad():
        expected = encoder(inputs).last_hidden_state
    (found,) = session.run(None, {"input_ids": inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)
    (tmp_path / "elsewhere" / "encoder.onnx").unlink()
    with pytest.raises(FileExistsError, match=r"encoder\.onnx\.data exists"):
        export_onnx(VARIANTS["data2vec_text"], encoder, tmp_path / "elsewhere" / "encoder.onnx")


def test_a_file_that_computes_something_else_gets_no_name(tmp_path, monkeypatch):
    def wrong(path):
        run = runner(path)
        return lambda inputs: {name: 1.001 * tensor for name, tensor in run(inputs).items()}

    runner = onnx_export._runner
    monkeypatch.setattr(onnx_export, "_runner", wrong)
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 1000)
    with pytest.raises(ConversionError, match=r"last_hidden_state differs by 0\.00\d+ of the spread, more than"):
        export_onnx(VARIANTS["data2vec_text"], encoder_of("data2vec_text"), tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    def no_work(*arguments, **options):
        raise AssertionError("the encoder was traced")

    monkeypatch.setattr(onnx_export, "export_encoder", no_work)
    variant, encoder, path = VARIANTS["ijepa"], encoder_of("ijepa"), tmp_path / "encoder.onnx"
    with pytest.raises(ValueError, match=r"torch.bfloat16 on cpu: load it with dtype=torch.float32"):
        export_onnx(variant, encoder_of("ijepa").to(torch.bfloat16), path)
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"encoder\.onnx exists: choose another name"):
        export_onnx(variant, encoder, path)
    assert path.read_bytes() == b"mine"
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ImportError, match=r'need onnxscript: run `pip install "hf_jepa\[onnx\]"`'):
        export_onnx(variant, encoder, tmp_path / "other.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["encoder.onnx"]
