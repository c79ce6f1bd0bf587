"""Official probes: converted with their encoder, loaded, written back."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from official_probe import EK100, FIRST, PROBES, SECOND, encoder, read, saved, wide
from safetensors.torch import load_file
from torch.nn.functional import gelu, layer_norm, linear
from transformers import VJEPA2ForVideoClassification

from hf_jepa.cli.main import main
from hf_jepa.core.key_map import ConversionError
from hf_jepa.core.probe_conversion import UNUSED_PROJECTION
from hf_jepa.hub.conversion import convert_checkpoint
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.hub.probes import convert_probe, revert_probe
from hf_jepa.models.vjepa2.anticipation_vjepa2 import VJepa2ForActionAnticipation
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForPreTraining, VJepa2ForVideoClassification, VJepa2Model
from hf_jepa.registry import VARIANTS


ROOT = Path(__file__).resolve().parents[2]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
DATA = {"vjepa": "vjepa/attentive_probe", "vjepa2": "vjepa2/attentive_classifier"}


def classifier(name: str):
    return VARIANTS[name].model_class(VARIANTS[name].heads["AutoModelForVideoClassification"])


@pytest.fixture(scope="module", params=list(PROBES))
def converted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    source = encoder(request.param, folder / "encoder")
    report = convert_probe(PROBES[request.param], source, folder / "model", num_attention_heads=4)
    return request.param, source, folder / "model", report


def restated(state: dict, tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """The logits of a probe of depth 1 as the official code computes them, from the official tensors."""
    state = {key.removeprefix("module."): value for key, value in state.items()}
    cross, (batch, _, width) = "pooler.cross_attention_block", tokens.shape

    def apply(name: str, x: torch.Tensor) -> torch.Tensor:
        return linear(x, state[f"{cross}.{name}.weight"], state[f"{cross}.{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, (width,), state[f"{cross}.{name}.weight"], state[f"{cross}.{name}.bias"], 1e-5)

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    query = state["pooler.query_tokens"].expand(batch, -1, -1)
    keys, values = apply("xattn.kv", norm("norm1", tokens)).chunk(2, dim=-1)
    scores = split(apply("xattn.q", query)) @ split(keys).transpose(-1, -2) / (width // heads) ** 0.5
    query = query + (scores.softmax(-1) @ split(values)).transpose(1, 2).flatten(2)
    query = query + apply("mlp.fc2", gelu(apply("mlp.fc1", norm("norm2", query))))
    return linear(query[:, 0], state["linear.weight"], state["linear.bias"])


# --- there ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_converted_probes_give_the_official_numbers(converted):
    name, source, output, report = converted
    model = classifier(name).from_pretrained(output).eval()
    facts, io, _ = read(DATA[name if name in DATA else "vjepa2"])
    pooled = model.pooler(io["features"])
    torch.testing.assert_close(pooled, io["pooled"], **CLOSE)
    torch.testing.assert_close(model.classifier(pooled[:, 0]), io["logits"], **CLOSE)
    assert model.config.num_labels == facts["num_classes"] and model.config.pooler_layer_norm_eps == 1e-5
    if "features_small" in io:  # where an epsilon of 1e-6 shows
        found = model.classifier(model.pooler(io["features_small"])[:, 0])
        torch.testing.assert_close(found, io["logits_small"], **CLOSE)
    variant = VARIANTS[name]
    before, after = variant.model_class().from_pretrained(source), variant.model_class(variant.base_model)
    expected = before.target_encoder.state_dict()
    found = variant.encoder_of(after.from_pretrained(output)).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    assert inspect_checkpoint(output)[1]
    unused = [f"  not used: {UNUSED_PROJECTION}.{part}" for part in ("weight", "bias")] * (name == "vjepa")
    assert sorted(line for line in report.splitlines() if "not used" in line) == sorted(unused)


@torch.no_grad()
def test_the_predictor_comes_along(converted):
    name, source, output, _ = converted
    if name == "vjepa":  # whose classes are without
        assert not any("predictor" in key for key in load_file(output / "model.safetensors"))
        return
    variant = VARIANTS[name]
    expected = variant.model_class().from_pretrained(source).predictor.state_dict()
    model, report = classifier(name).from_pretrained(output, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    found = model.base_model.predictor.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


@torch.no_grad()
def test_anticipation_from_end_to_end(ek100, tmp_path):
    facts, io, _ = read("vjepa2/action_anticipation")
    report = convert_probe(EK100, ek100, tmp_path / "model", num_attention_heads=facts["probe_heads"])
    assert "5 verbs, 6 nouns, 7 actions" in report
    model = VJepa2ForActionAnticipation.from_pretrained(tmp_path / "model").eval()
    options = {"frames_per_second": facts["frames_per_second"], "num_output_frames": facts["num_output_frames"]}
    out = model(io["video"].transpose(1, 2), io["anticipation_times"], **options)
    for name in facts["classes"]:
        torch.testing.assert_close(out[f"{name}_logits"], io[f"logits_{name}"], **CLOSE)
    revert_probe(tmp_path / "model", tmp_path / "back.pt")
    same_probe(tmp_path / "back.pt", EK100)
    assert inspect_checkpoint(tmp_path / "model")[1]


def test_a_probe_of_actions_alone_on_the_encoder_of_a_model_that_answers_more(ek100, tmp_path):
    convert_probe(EK100, ek100, tmp_path / "more", num_attention_heads=4)
    (state,) = read_torch_checkpoint(EK100)["classifiers"]
    alone = {k: v for k, v in state.items() if "verb" not in k and "noun" not in k}
    alone["module.pooler.query_tokens"] = state["module.pooler.query_tokens"][:, 2:]
    file = saved({"classifiers": [alone]}, tmp_path)
    convert_probe(file, tmp_path / "more", tmp_path / "model", num_attention_heads=4)
    stored = load_file(tmp_path / "model/model.safetensors")
    assert not any("verb" in key for key in stored) and stored["pooler.query_tokens"].shape[1] == 1
    model = VJepa2ForActionAnticipation.from_pretrained(tmp_path / "model")
    assert model.questions == ["action"] and model.config.num_verbs == 0
    revert_probe(tmp_path / "model", tmp_path / "back.pt")
    same_probe(tmp_path / "back.pt", file)


def snippet_runs(folder: Path, monkeypatch) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(folder.parent)
    exec(snippet, {})


def test_the_snippets_of_cards_run(converted, ek100, tmp_path, monkeypatch, capsys):
    _, _, output, _ = converted
    snippet_runs(output, monkeypatch)
    convert_probe(EK100, ek100, tmp_path / "model", num_attention_heads=4)
    snippet_runs(tmp_path / "model", monkeypatch)
    assert "verb_logits" in capsys.readouterr().out
    card = (tmp_path / "model/README.md").read_text()
    assert "pipeline_tag: video-classification" in card and "has no such model" in card


@torch.no_grad()
def test_stock_transformers_computes_the_same_where_heads_and_epsilon_agree(tmp_path):
    source = encoder("vjepa2", tmp_path / "encoder", layer_norm_eps=1e-5)
    convert_probe(SECOND, source, tmp_path / "model", num_attention_heads=4)
    stock, info = VJEPA2ForVideoClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ours = VJepa2ForVideoClassification.from_pretrained(tmp_path / "model").eval()
    clips = torch.randn(2, 4, 3, 32, 32)
    torch.testing.assert_close(stock.eval()(clips).logits, ours(clips).logits, **CLOSE)
    assert "computes the same" in (tmp_path / "model/README.md").read_text()


@torch.no_grad()
def test_a_probe_with_other_heads_than_the_encoder_is_the_official_function_not_the_native_one(tmp_path):
    # As with ViT-g, of 22 heads, and its probes, of 16: here 2 and 16.
    source = encoder("vjepa2", tmp_path / "encoder", num_attention_heads=2, layer_norm_eps=1e-5)
    official = wide(5)
    convert_probe(saved(official, tmp_path), source, tmp_path / "model")
    ours = VJepa2ForVideoClassification.from_pretrained(tmp_path / "model").eval()
    assert ours.config.pooler_num_attention_heads == 16
    clips = torch.randn(2, 4, 3, 32, 32)
    tokens = ours.vjepa2(clips).last_hidden_state
    torch.testing.assert_close(ours(clips).logits, restated(official["classifiers"][0], tokens, 16), **CLOSE)
    stock = VJEPA2ForVideoClassification.from_pretrained(tmp_path / "model").eval()
    stock_tokens = stock.vjepa2(clips, skip_predictor=True).last_hidden_state
    torch.testing.assert_close(stock_tokens, tokens, **CLOSE)
    assert (stock(clips).logits - ours(clips).logits).abs().max() > 0.1
    torch.testing.assert_close(stock(clips).logits, restated(official["classifiers"][0], tokens, 2), **CLOSE)
    assert "loads the weights as another function" in (tmp_path / "model/README.md").read_text()


@torch.no_grad()
def test_layers_are_read_together(vjepa2, tmp_path):
    official = wide(5)
    convert_probe(saved(official, tmp_path), vjepa2, tmp_path / "model", layers=[0, 1])
    model = VJepa2ForVideoClassification.from_pretrained(tmp_path / "model").eval()
    clips = torch.randn(2, 4, 3, 32, 32)
    tokens = torch.cat(model.vjepa2.encoder(clips, levels=[0, 1]).levels, dim=1)
    torch.testing.assert_close(model(clips).logits, restated(official["classifiers"][0], tokens, 16), **CLOSE)


def test_the_index_chooses_a_probe_and_the_first_is_said_to_be_taken(vjepa2, tmp_path):
    first, second = wide(5)["classifiers"][0], wide(7)["classifiers"][0]
    file = saved({"classifiers": [first, second]}, tmp_path)
    report = convert_probe(file, vjepa2, tmp_path / "a")
    assert "probe 0 of 2 (the first; --index chooses another" in report
    report = convert_probe(file, vjepa2, tmp_path / "b", index=1)
    assert "probe 1 of 2: " in report and "the first" not in report
    counts = [json.loads((tmp_path / f"{name}/config.json").read_text())["id2label"] for name in "ab"]
    assert [len(labels) for labels in counts] == [5, 7]


def test_an_official_backbone_file_is_taken_as_the_encoder(tmp_path):
    fields = {"pred_hidden_size": 384, "pred_num_attention_heads": 12, "pred_num_hidden_layers": 1}
    config = VJepa2Config.from_size("vit_tiny", **fields)
    model = VJepa2ForPreTraining(config)
    with torch.no_grad():
        model.context_encoder.layernorm.bias += 1
    backbone = saved(VARIANTS["vjepa2"].layout.revert(model.state_dict(), config), tmp_path, "backbone.pt")
    report = convert_probe(saved(wide(5, 192), tmp_path), backbone, tmp_path / "model")
    assert "backbone.pt, entry target_encoder" in report and "crop_size 256, frames_per_clip 64" in report
    found = VJepa2Model.from_pretrained(tmp_path / "model")
    assert all(torch.equal(value, model.vjepa2.state_dict()[key]) for key, value in found.state_dict().items())
    assert found.config.official_target_key == "target_encoder"


def test_an_encoder_alone_serves_classification_but_not_anticipation(ek100, tmp_path):
    whole = read_torch_checkpoint(EK100)
    alone = saved({"target_encoder": whole["target_encoder"]}, tmp_path, "alone.pt")
    convert_checkpoint(VARIANTS["vjepa2"], alone, tmp_path / "e", num_attention_heads=2, crop_size=32)
    report = convert_probe(saved(wide(5, 40), tmp_path), tmp_path / "e", tmp_path / "model", num_attention_heads=4)
    assert "its predictor, which no classification needs" in report
    assert not any("predictor" in key for key in load_file(tmp_path / "model/model.safetensors"))
    assert inspect_checkpoint(tmp_path / "model")[1]
    with pytest.raises(ConversionError, match="has no predictor"):
        convert_probe(EK100, tmp_path / "e", tmp_path / "x", num_attention_heads=4)


def test_labels_are_named(vjepa2, tmp_path):
    names = [f"dive {i}" for i in range(9)]
    (tmp_path / "names.json").write_text(json.dumps(names))
    options = ["--encoder", vjepa2, "--labels", tmp_path / "names.json", "--num-attention-heads", "4"]
    command = ["convert", "--probe", SECOND, "--output", tmp_path / "model", *options]
    assert main([str(word) for word in command]) == 0
    config = VJepa2Config.from_pretrained(tmp_path / "model")
    assert config.id2label == dict(enumerate(names)) and config.label2id["dive 8"] == 8
    report = revert_probe(tmp_path / "model", tmp_path / "back.pt")
    assert json.loads(re.search(r"way back: (\{.*\})", report)[1])["--labels"] == names
    for wrong, message in ((names[:8], "8 names, 8 of them different, for 9"), (names[:8] * 2, "16 names, 8")):
        with pytest.raises(ConversionError, match=message):
            convert_probe(SECOND, vjepa2, tmp_path / "x", num_attention_heads=4, labels=wrong)


# --- and back -------------------------------------------------------------------------------------------------------


def same_probe(found: Path, expected: Path) -> None:
    found, expected = read_torch_checkpoint(found), read_torch_checkpoint(expected)
    if "classifiers" in expected:
        (state,), (official,) = found["classifiers"], expected["classifiers"]
    else:
        state, official = found["classifier"], expected["classifier"]
    assert len(found) == 1 and state.keys() == official.keys()
    for key, value in official.items():
        if UNUSED_PROJECTION not in key:
            assert torch.equal(state[key], value), key


def test_round_trips_are_exact(converted, tmp_path):
    name, source, output, _ = converted
    report = revert_probe(output, tmp_path / "back.pt")
    same_probe(tmp_path / "back.pt", PROBES[name])
    again = tmp_path / "again"
    assert ('"--num-attention-heads": 4' in report) == (name != "vjepa")
    convert_probe(tmp_path / "back.pt", source, again, num_attention_heads=4)
    before, after = (load_file(folder / "model.safetensors") for folder in (output, again))
    assert before.keys() == after.keys() and all(torch.equal(value, after[key]) for key, value in before.items())


def test_the_projection_that_nothing_applies_is_the_identity_on_the_way_back(tmp_path):
    convert_probe(FIRST, encoder("vjepa", tmp_path / "e"), tmp_path / "model")
    revert_probe(tmp_path / "model", tmp_path / "back.pt")
    state = read_torch_checkpoint(tmp_path / "back.pt")["classifier"]
    assert torch.equal(state[f"module.{UNUSED_PROJECTION}.weight"], torch.eye(32))
    assert torch.equal(state[f"module.{UNUSED_PROJECTION}.bias"], torch.zeros(32))


def test_what_official_code_would_compute_otherwise_is_not_written(tmp_path):
    for name, fields, message in (
        ("vjepa2", {"pooler_layer_norm_eps": 1e-6}, "pooler_layer_norm_eps is 1e-06.*another function"),
        ("vjepa", {"pooler_num_attention_heads": 2}, "pooler has 2 heads.*those of the encoder, 4"),
        ("vjepa", {"num_pooler_layers": 1}, "no place.*self_attention_layers"),
    ):
        model = classifier(name)(VARIANTS[name].config_class()(**(VARIANTS[name].tiny | fields)))
        model.save_pretrained(tmp_path / "m")
        with pytest.raises(ConversionError, match=message):
            revert_probe(tmp_path / "m", tmp_path / "x.pt")
        assert not (tmp_path / "x.pt").exists()
    with pytest.raises(ConversionError, match="no pooler and no classifier"):
        revert_probe(encoder("vjepa2", tmp_path / "e"), tmp_path / "x.pt")


@pytest.mark.slow
def test_the_script_and_the_command_go_both_ways(vjepa2, tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    script = [sys.executable, ROOT / "conversion/convert_vjepa2_probe.py"]
    there = ["--probe", SECOND, "--encoder", vjepa2, "--output", tmp_path / "m", "--num-attention-heads", "4"]
    for arguments in (there, ["--reverse", tmp_path / "m", "--output", tmp_path / "b"]):
        done = subprocess.run([*script, *arguments], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
    same_probe(tmp_path / "b", SECOND)
    done = subprocess.run([*script, *there[:4]], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2 and "--output" in done.stderr
    names = {path.name for path in (tmp_path / "m").iterdir()}
    whole = {"README.md", "config.json", "fingerprint.json", "model.safetensors", "video_preprocessor_config.json"}
    assert names == whole
    assert main(["convert", "--reverse", str(tmp_path / "m"), "--output", str(tmp_path / "c")]) == 0
    same_probe(tmp_path / "c", SECOND)
