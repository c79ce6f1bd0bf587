"""Graphs of encoders compute what the encoders compute, for any batch and, where they can, any size."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_jepa.hub.torch_export import ONE_SIZE, example_input, export_encoder, fixed_size, save_program
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.registry import VARIANTS


pytestmark = pytest.mark.hub


DOCS = Path(__file__).resolve().parents[2] / "docs/ecosystem.md"
WITH_SIZE = [name for name, each in VARIANTS.items() if each.base_model and each.modality in ("image", "video")]
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}


def each(names, quick):
    """One is traced by default, the others by the long tests."""
    return [pytest.param(name, marks=() if name == quick else pytest.mark.slow) for name in names]


def encoder_of(name, **fields):
    torch.manual_seed(0)
    variant = VARIANTS[name]
    model = variant.model_class(variant.base_model)(variant.config_class()(**(variant.tiny | fields)))
    for parameter in model.parameters():  # what starts as zero or one would hide a mistake
        parameter.data += 0.02 * torch.randn_like(parameter)
    return variant.encoder_of(model).eval()


def assert_equal_outputs(graph, encoder, inputs):
    with torch.no_grad():
        expected, found = encoder(inputs, return_dict=True), graph(inputs)
    assert set(found) == {name for name in ("last_hidden_state", "pooler_output") if expected.get(name) is not None}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)
    return found["last_hidden_state"]


@pytest.mark.parametrize(
    "name", each([name for name, variant in VARIANTS.items() if variant.base_model], "data2vec_text")
)
def test_a_graph_takes_any_batch(name):
    encoder = encoder_of(name)
    encoder.train()
    graph = export_encoder(VARIANTS[name], encoder).module()
    assert encoder.training
    encoder.eval()
    for batch in (1, 2, 5):
        assert assert_equal_outputs(graph, encoder, example_input(encoder, batch)).shape[0] == batch


def check_sizes(name, encoder, patch):
    graph = export_encoder(VARIANTS[name], encoder, any_size=True).module()
    trained = example_input(encoder, 3)
    spread = assert_equal_outputs(graph, encoder, trained).std()  # the size that it was trained at too
    height, width = trained.shape[-2:]
    shapes = [(height + patch[0], width), (height, width + 2 * patch[1]), (height // 2, width + patch[1])]
    for height, width in shapes:
        inputs = torch.randn(2, *trained.shape[1:-2], height, width)
        assert_equal_outputs(graph, encoder, inputs)
    assert spread > 0.1
    return graph


@pytest.mark.parametrize("name", each([name for name in WITH_SIZE if name not in ONE_SIZE], "ijepa"))
def test_a_graph_takes_any_size(name):
    encoder = encoder_of(name)
    config = getattr(encoder.config, "backbone_config", encoder.config)
    graph = check_sizes(name, encoder, pair(config.patch_size))
    odd = example_input(encoder)[..., :-1]
    if VARIANTS[name].inputs == "views":  # stock backbones leave out what fills no patch
        assert_equal_outputs(graph, encoder, odd)
        return
    for takes_all in (encoder, graph):
        with pytest.raises(Exception, match=r"divi|Guard|multiple"):
            takes_all(odd)


@pytest.mark.slow
def test_a_convolutional_backbone_takes_any_size():
    encoder = encoder_of("simsiam", backbone_config=RESNET)
    check_sizes("simsiam", encoder, (1, 1))


@pytest.mark.parametrize("name", [*ONE_SIZE, "data2vec_audio", "data2vec_text"])
def test_what_cannot_be_of_any_size_says_why(name):
    encoder = encoder_of(name)
    with pytest.raises(ValueError, match=f"one size only: {re.escape(fixed_size(VARIANTS[name], encoder))}"):
        export_encoder(VARIANTS[name], encoder, any_size=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_SIZE)
def test_what_is_said_to_be_of_one_size_is(name, monkeypatch):
    monkeypatch.setitem(ONE_SIZE, name, "")
    encoder = encoder_of(name)
    with pytest.raises(Exception, match=r"[Gg]uard|[Cc]onstraint"):
        check_sizes(name, encoder, pair(encoder.config.patch_size))


@pytest.mark.parametrize("name", ["ijepa", "vjepa"])
def test_tables_computed_for_a_size_are_refused(name):
    encoder = encoder_of(name, position_resize="recompute")
    with pytest.raises(ValueError, match="load it with 'interpolate'"):
        export_encoder(VARIANTS[name], encoder, any_size=True)


@pytest.mark.slow
def test_a_file_is_loaded_without_this_package(tmp_path):
    encoder, path = encoder_of("ijepa"), tmp_path / "encoder.pt2"
    save_program(export_encoder(VARIANTS["ijepa"], encoder), path, VARIANTS["ijepa"])
    assert [each.name for each in tmp_path.iterdir()] == ["encoder.pt2"]
    with pytest.raises(FileExistsError, match=r"encoder\.pt2 exists"):
        save_program(None, path, VARIANTS["ijepa"])
    inputs = example_input(encoder, 3)
    torch.save(inputs, tmp_path / "inputs.pt")
    code = f"""
import sys, torch
sys.modules["hf_jepa"] = sys.modules["transformers"] = None
told = {{"hf_jepa.json": ""}}
graph = torch.export.load({str(path)!r}, extra_files=told).module()
torch.save(graph(torch.load({str(tmp_path / "inputs.pt")!r}))["last_hidden_state"], {str(tmp_path / "out.pt")!r})
print(told["hf_jepa.json"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert (told["variant"], told["inputs"]) == ("ijepa", [-1, 3, 32, 32])
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "out.pt"), encoder(inputs).last_hidden_state)


def test_the_document_says_which_sizes_each_variant_takes():
    rows = re.findall(r"^\| `(\w+)` \| (any|fixed) \| (any|fixed|none) \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    expected = []
    for name, variant in VARIANTS.items():
        if not variant.base_model:
            continue
        size = "none" if name not in WITH_SIZE else "fixed" if name in ONE_SIZE else "any"
        expected.append((name, "any", size))
        (reason,) = (why for found, *_, why in rows if found == name)
        assert reason.startswith(ONE_SIZE.get(name, ""))
    assert [row[:3] for row in rows] == expected
