"""Graphs of encoders compute what the encoders compute, for any batch and, where they can, any size."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from graphs import (
    OF_ANY_SIZE,
    RESNET,
    WITH_ENCODER,
    WITH_SIZE,
    assert_equal_outputs,
    assert_equal_sizes,
    each,
    encoder_of,
)

import hf_jepa
from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.torch_export import (
    ONE_SIZE,
    example_input,
    export_encoder,
    fixed_size,
    require_equal,
    save_program,
)
from hf_jepa.registry import VARIANTS


pytestmark = pytest.mark.hub


DOCS = Path(__file__).resolve().parents[2] / "docs/ecosystem.md"


@pytest.mark.parametrize("name", each(WITH_ENCODER, "data2vec_text"))
def test_a_graph_takes_any_batch(name):
    encoder = encoder_of(name)
    encoder.train()
    graph = export_encoder(VARIANTS[name], encoder).module()
    assert encoder.training
    encoder.eval()
    for batch in (1, 2, 5):
        assert assert_equal_outputs(graph, encoder, example_input(encoder, batch)).shape[0] == batch


@pytest.mark.parametrize("name", each(OF_ANY_SIZE, "ijepa"))
def test_a_graph_takes_any_size(name):
    encoder = encoder_of(name)
    graph = export_encoder(VARIANTS[name], encoder, any_size=True).module()
    assert_equal_sizes(graph, encoder)
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
    assert_equal_sizes(export_encoder(VARIANTS["simsiam"], encoder, any_size=True).module(), encoder)


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
        assert_equal_sizes(export_encoder(VARIANTS[name], encoder, any_size=True).module(), encoder)


def test_a_graph_that_computes_something_else_is_refused():
    encoder = encoder_of("ijepa").train()

    def changed(share):
        def run(inputs):
            encoder.eval()
            with torch.no_grad():
                tokens = encoder(inputs).last_hidden_state
            encoder.train()
            tokens[-1, -1, -1] += share * tokens.std()
            return {"last_hidden_state": tokens}

        return run

    assert require_equal(changed(5e-5), encoder, any_size=True) == pytest.approx(5e-5, rel=0.01)
    assert encoder.training
    with pytest.raises(ConversionError, match="1 x 3 x 32 x 32 its last_hidden_state differs by 0.0002 of the spread"):
        require_equal(changed(2e-4), encoder, any_size=True)
    with pytest.raises(ConversionError, match="differs by nan"):
        require_equal(changed(float("nan")), encoder, any_size=True)


def test_a_graph_that_is_wrong_at_another_size_only_is_refused():
    encoder = encoder_of("ijepa")

    def run(inputs):
        with torch.no_grad():
            return {"last_hidden_state": encoder(inputs).last_hidden_state * (1 + (inputs.shape[-1] != 32))}

    assert require_equal(run, encoder, any_size=False) == 0
    with pytest.raises(ConversionError, match="for an input of 2 x 3 x 36 x 40"):
        require_equal(run, encoder, any_size=True)


@pytest.mark.parametrize("name", ["ijepa", "vjepa"])
def test_tables_computed_for_a_size_are_refused(name):
    encoder = encoder_of(name, position_resize="recompute")
    with pytest.raises(ValueError, match="load it with 'interpolate'"):
        export_encoder(VARIANTS[name], encoder, any_size=True)


def test_a_file_holds_nothing_of_this_machine(tmp_path):
    path = tmp_path / "encoder.pt2"
    save_program(
        export_encoder(VARIANTS["data2vec_text"], encoder_of("data2vec_text")), path, VARIANTS["data2vec_text"]
    )
    with zipfile.ZipFile(path) as archive:
        parts = [archive.read(name) for name in archive.namelist()]
    assert any(b"last_hidden_state" in part for part in parts)
    for place in (Path(torch.__file__).parents[2], Path(hf_jepa.__file__).parents[1]):
        assert not any(str(place).encode() in part for part in parts)


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
