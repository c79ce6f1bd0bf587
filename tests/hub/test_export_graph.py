"""`hf-jepa export --onnx` and `--graph`: folders with an encoder as a graph, whole or absent."""

import json

import pytest
import torch
from hub_client import save_run
from transformers import AutoImageProcessor

from hf_jepa.cli.main import main
from hf_jepa.hub import export_graph as module
from hf_jepa.hub import onnx_export
from hf_jepa.hub.export_graph import export_graph
from hf_jepa.hub.fingerprint import load_target_encoder
from hf_jepa.registry import VARIANTS


pytestmark = pytest.mark.hub


@pytest.fixture
def ijepa(tmp_path):
    return save_run("ijepa", tmp_path / "ijepa")


KEPT = {"README.md", "config.json", "fingerprint.json", "preprocessor_config.json"}


def snippet(folder):
    return (folder / "README.md").read_text().split("## As a graph")[1].split("```")[1].removeprefix("python\n")


def features(ijepa, height, width):
    pixels = torch.randn(2, 3, height, width)
    with torch.no_grad():
        return pixels, load_target_encoder(VARIANTS["ijepa"], ijepa).eval()(pixels).last_hidden_state


def test_the_command_writes_an_onnx_file_that_its_card_opens(ijepa, tmp_path, capsys, monkeypatch):
    assert main(["export", str(ijepa), "--output", str(tmp_path / "out"), "--onnx", "--any-size"]) == 0
    report = capsys.readouterr().out
    assert "model.onnx, for inputs of batch x 3 x height x width" in report
    assert "left out: checkpoint-4, training_args.bin" in report
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*KEPT, "model.onnx"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: onnx\n" in card and "license: mit" in card and "Nothing was verified." in card
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(snippet(tmp_path / "out"), namespace)
    pixels, expected = features(ijepa, 36, 20)
    (found,) = namespace["encoder"].run(["last_hidden_state"], {"pixel_values": pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    taken = dict(processor(torch.zeros(3, 50, 50, dtype=torch.uint8), return_tensors="np"))
    assert namespace["encoder"].run(None, taken)[0].shape == (1, 64, 32)  # what a processor gives is what it takes


def test_the_command_writes_a_program_that_its_card_opens(ijepa, tmp_path, capsys, monkeypatch):
    assert main(["export", str(ijepa), "--output", str(tmp_path / "out"), "--graph"]) == 0
    assert "model.pt2, for inputs of batch x 3 x 32 x 32" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*KEPT, "model.pt2"}
    assert "library_name: pytorch\n" in (tmp_path / "out" / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(snippet(tmp_path / "out"), namespace)
    pixels, expected = features(ijepa, 32, 32)
    torch.testing.assert_close(namespace["encoder"](pixels)["last_hidden_state"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--remote-code", "--any-size"], "--any-size goes with --onnx and --graph"),
        (["--encoder-only", "--any-size"], "--any-size goes with --onnx and --graph"),
        (["--onnx", "--encoder", "context"], "--encoder goes with --encoder-only"),
        (["--onnx", "--graph"], "not allowed with"),
        (["--graph"], "is empty: name the folder of a checkpoint"),
    ],
)
def test_the_command_explains_what_is_wrong(arguments, message, tmp_path, capsys):
    assert main(["export", str(tmp_path), "--output", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_missing_libraries_are_said_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    assert main(["export", str(tmp_path), "--output", str(tmp_path / "out"), "--onnx"]) == 2
    expected = 'ONNX files need onnx, onnxscript, onnxruntime: run `pip install "hf_jepa[onnx]"`'
    assert expected in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_export_is_whole_or_absent(ijepa, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_write", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_graph(ijepa, tmp_path / "out", "torch")
    fingerprint = json.loads((ijepa / "fingerprint.json").read_text())
    (ijepa / "fingerprint.json").write_text(json.dumps(fingerprint | {"mean": 3.0}))
    with pytest.raises(ValueError, match="is not that of its weights: mean"):
        export_graph(ijepa, tmp_path / "out", "torch")
    with pytest.raises(ValueError, match="graph 'trt' is not one of onnx, torch"):
        export_graph(ijepa, tmp_path / "out", "trt")
    assert {path.name for path in tmp_path.iterdir()} == {"ijepa"}


def test_a_language_model_is_left_to_other_tools(tmp_path):
    variant = VARIANTS["llm_jepa"]
    variant.model_class()(variant.config_class()(**variant.tiny)).save_pretrained(tmp_path / "llm")
    with pytest.raises(ValueError, match="LLM-JEPA is a language model of stock transformers"):
        export_graph(tmp_path / "llm", tmp_path / "out", "torch")
    assert not (tmp_path / "out").exists()
