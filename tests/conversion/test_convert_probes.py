"""Official probes: converted with their encoder, loaded, written back; probes of other encoders are refused."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from official_probe import GOLDEN, read
from safetensors.torch import load_file, save_file
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
FIRST, SECOND = (GOLDEN / case / "checkpoint.pt" for case in ("vjepa/attentive_probe", "vjepa2/attentive_classifier"))
EK100 = GOLDEN / "vjepa2/action_anticipation/checkpoint.pt"
PROBES = {"vjepa": FIRST, "vjepa2": SECOND, "vjepa2_1": SECOND}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
DATA = {"vjepa": "vjepa/attentive_probe", "vjepa2": "vjepa2/attentive_classifier"}


def encoder(name: str, folder: Path, **fields) -> Path:
    """A tiny pretraining checkpoint, of the width of the golden probes."""
    torch.manual_seed(0)
    variant = VARIANTS[name]
    config = variant.config_class()(**(variant.tiny | fields))
    config.official_target_key = "target_encoder"
    variant.model_class()(config).save_pretrained(folder)
    return folder


def classifier(name: str):
    return VARIANTS[name].model_class(VARIANTS[name].heads["AutoModelForVideoClassification"])


@pytest.fixture(scope="module", params=list(PROBES))
def converted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    source = encoder(request.param, folder / "encoder")
    report = convert_probe(PROBES[request.param], source, folder / "model", num_attention_heads=4)
    return request.param, source, folder / "model", report


@pytest.fixture(scope="module")
def vjepa2(tmp_path_factory):
    return encoder("vjepa2", tmp_path_factory.mktemp("vjepa2") / "encoder")


@pytest.fixture(scope="module")
def ek100(tmp_path_factory):
    """The golden backbone, which its probe belongs to, in a folder of ours."""
    folder = tmp_path_factory.mktemp("ek100") / "encoder"
    heads = {"num_attention_heads": 2, "pred_num_attention_heads": 2}
    convert_checkpoint(VARIANTS["vjepa2"], EK100, folder, **heads, crop_size=32, frames_per_clip=4)
    return folder


def saved(official: dict, folder: Path, name: str = "probe.pt") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    torch.save(official, folder / name)
    return folder / name


def wide(classes: int, width: int = 32, queries: int = 1, depth: int = 1) -> dict:
    """A probe in the layout of V-JEPA 2 with random weights."""
    torch.manual_seed(1)
    state = {"pooler.query_tokens": torch.randn(1, queries, width)}
    blocks = [f"pooler.blocks.{i}" for i in range(depth - 1)]
    for block in (*blocks, "pooler.cross_attention_block"):
        for norm in ("norm1", "norm2"):
            state |= {f"{block}.{norm}.weight": 1 + torch.randn(width) / 5, f"{block}.{norm}.bias": torch.randn(width)}
        layers = [("mlp.fc1", 4 * width, width), ("mlp.fc2", width, 4 * width)]
        inner = (
            [("attn.qkv", 3, 1), ("attn.proj", 1, 1)] if block in blocks else [("xattn.q", 1, 1), ("xattn.kv", 2, 1)]
        )
        layers += [(name, out * width, width) for name, out, _ in inner]
        for name, out, into in layers:
            state |= {
                f"{block}.{name}.weight": torch.randn(out, into) / into**0.5,
                f"{block}.{name}.bias": torch.randn(out),
            }
    state |= {"linear.weight": torch.randn(classes, width), "linear.bias": torch.randn(classes)}
    return {"classifiers": [{f"module.{key}": value for key, value in state.items()}], "epoch": 20}


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


# --- what the names of released files tell --------------------------------------------------------------------------


@pytest.fixture
def tiny_release(monkeypatch):
    """Makes the layout know a released file, and the evaluation of its task, for the tiny encoder."""
    variant = VARIANTS["vjepa2"]
    module = variant.module("convert")
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "crop_size": 32}

    def make(task: str, **changes):
        (row, *_) = [row for row in module.PROBES.protocols if row.task == task]
        row = replace(row, encoder=fields, layers=row.layers and (0, 1), **changes)
        probes = replace(module.PROBES, protocols=(row,), released={f"{task}-tiny.pt": fields})
        monkeypatch.setattr(module, "PROBES", probes)

    return make


def test_a_released_name_fills_in_layers_and_frames(vjepa2, tmp_path, tiny_release):
    tiny_release("diving48")
    report = convert_probe(saved(wide(48), tmp_path, "diving48-tiny.pt"), vjepa2, tmp_path / "m")
    for line in ("released probe: diving48-tiny.pt", "inferred: --layers 0 1", "inferred: frames_per_clip 32"):
        assert line in report
    config = VJepa2Config.from_pretrained(tmp_path / "m")
    assert config.classifier_layers == [0, 1] and config.frames_per_clip == 32
    card = (tmp_path / "m/README.md").read_text()
    assert "license: mit" in card and "Not verified" in card and "layers 0, 1 of the encoder" in card
    assert "Diving48, clips of 32 frames (every 2nd of the video), 4 segments x 3 views, at 32 pixels" in card
    given = convert_probe(tmp_path / "diving48-tiny.pt", vjepa2, tmp_path / "n", layers=[1])
    assert "note: its probes read layers [0, 1], not [1]" in given
    assert VJepa2Config.from_pretrained(tmp_path / "n").classifier_layers == [1]


def test_a_name_with_other_classes_is_not_taken_for_the_released_file(vjepa2, tmp_path, tiny_release):
    tiny_release("ssv2")
    report = convert_probe(saved(wide(5), tmp_path, "ssv2-tiny.pt"), vjepa2, tmp_path / "m")
    assert "released probe: none" in report and "unknown; assumed: the last layer" in report
    assert "license:" not in (tmp_path / "m/README.md").read_text()


def test_tasks_of_several_layers_want_them_named_for_other_encoders(vjepa2, tmp_path):
    file = saved(wide(27), tmp_path, "jester-mine.pt")
    with pytest.raises(ConversionError, match=r"jester-mine.pt read several layers.*--layers 1 for the last"):
        convert_probe(file, vjepa2, tmp_path / "m")
    assert "reads: layers 0, 1 of the encoder" in convert_probe(file, vjepa2, tmp_path / "m", layers=[0, 1])
    assert VJepa2Config.from_pretrained(tmp_path / "m").classifier_layers == [0, 1]


def test_a_released_probe_of_another_encoder_is_refused(vjepa2, tmp_path, tiny_release):
    tiny_release("ssv2")
    file = saved(wide(174), tmp_path, "ssv2-tiny.pt")
    other = encoder("vjepa2", tmp_path / "e", crop_size=64)
    with pytest.raises(ConversionError, match=r"'crop_size': 32.*but this one has .*'crop_size': 64"):
        convert_probe(file, other, tmp_path / "m")
    assert "released probe: ssv2-tiny.pt" in convert_probe(file, vjepa2, tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "variant"), [(n, v) for v in ("vjepa", "vjepa2") for n in VARIANTS[v].probes.released]
)
def test_released_probes_meet_their_encoders(name, variant, tmp_path):
    variant = VARIANTS[variant]
    layout, encoders = variant.probes, set()
    config_class, sizes = variant.config_class(), variant.module("configuration").SIZES
    for size in ("vit_large", "vit_huge", "vit_giant"):
        for crop in (224, 256, 384):
            config = config_class(**sizes[size], crop_size=crop)
            rows = [row for row in layout.protocols if name.rpartition("/")[2].startswith(row.task)]
            probe = type("Probe", (), {"fields": {"num_labels": rows[0].num_classes}})
            try:
                known, protocol = layout.protocol(tmp_path / name, probe, config)
            except ConversionError:
                continue
            assert known == name and protocol in rows
            encoders.add((size, crop))
    assert len(encoders) == 1


def test_layers_and_frames_of_the_table():
    rows = {(row.task, row.encoder["num_hidden_layers"]): row for row in VARIANTS["vjepa2"].probes.protocols}
    assert rows["diving48", 24].layers == rows["jester", 24].layers == (17, 19, 21, 23)
    assert rows["diving48", 40].layers == rows["jester", 40].layers == (24, 29, 34, 39)
    assert [rows["ssv2", depth].frames for depth in (24, 40)] == [16, 64]
    newer = {(row.task, row.encoder["num_hidden_layers"]): row for row in VARIANTS["vjepa2_1"].probes.protocols}
    assert newer["jester", 48].layers == (11, 23, 37, 47) and newer["in1k", 12].frames == 16
    assert {row.encoder["crop_size"] for row in newer.values()} == {384}


# --- what must be refused -------------------------------------------------------------------------------------------


def without_prefix(c):
    c["classifiers"] = [{k.removeprefix("module."): v for k, v in c["classifiers"][0].items()}]


def twice(c):
    c["classifiers"] = [{f"module.{k}": v for k, v in c["classifiers"][0].items()}]


def changed(**tensors):
    def change(c):
        c["classifiers"][0].update({f"module.{key.replace('__', '.')}": value for key, value in tensors.items()})

    return change


def lost(*names):
    def change(c):
        for name in names:
            del c["classifiers"][0][f"module.{name}"]

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda c: c.update(wide(5, 48)), {}, "features of width 48, the encoder's are 32 wide"),
        (lambda c: None, {"index": 1}, "no probe 1: the file holds 1"),
        (lambda c: None, {"index": -1}, "no probe -1"),
        (lambda c: None, {"layers": [0, 2]}, r"layers \[2\] are not there: the encoder's are \[0, 1\]"),
        (lambda c: None, {"layers": [-1]}, r"layers \[-1\] are not there"),
        (lambda c: None, {"layers": [1, 1]}, "name one twice"),
        (lambda c: None, {"num_attention_heads": 5}, "multiple of pooler_num_attention_heads 5"),
        (lambda c: None, {"num_attention_heads": 0}, "multiple of pooler_num_attention_heads 0"),
        (without_prefix, {}, "51 keys of entry .*lack the prefix 'module.'"),
        (twice, {}, "no tensor 'pooler.query_tokens'"),
        (lost("pooler.query_tokens"), {}, "no tensor 'pooler.query_tokens'"),
        (lost("pooler.blocks.1.attn.qkv.bias"), {}, "3 keys are missing: pooler.self_attention_layers.1"),
        (lost("pooler.cross_attention_block.mlp.fc2.weight"), {}, "cross_attention_layer.mlp.fc2.weight"),
        (lost("linear.bias"), {}, "1 keys are missing: classifier.bias"),
        (lost("linear.weight"), {}, "needs either one 'linear'"),
        (lost("linear.weight", "linear.bias"), {}, "needs either one 'linear'"),
        (changed(verb_classifier__weight=torch.zeros(5, 32)), {}, "needs either one 'linear'"),
        (changed(pooler__query_tokens=torch.zeros(1, 3, 32)), {}, "3 queries for 1 classifiers"),
        (changed(pooler__query_tokens=torch.zeros(32)), {}, "shape"),
        (changed(extra__weight=torch.zeros(2)), {}, "no place.*extra.weight"),
        (changed(**{UNUSED_PROJECTION.replace(".", "__") + "__bias": torch.zeros(32)}), {}, "no place.*xattn.proj"),
        (changed(linear__bias=torch.full((9,), torch.nan)), {}, "NaN or infinity in 1 tensors.*classifier.bias"),
        (changed(linear__bias=torch.zeros(9, dtype=torch.int8)), {}, "not a dense tensor of floating-point"),
        (lambda c: c.update(classifiers=[]), {}, "is a list of probes"),
        (lambda c: c.update(classifiers=c["classifiers"][0]), {}, "is a list of probes"),
        (lambda c: c.update(classifiers=[3]), {}, "not a state dict"),
        (lambda c: c.pop("classifiers"), {}, "probe of V-JEPA 2 is under the entry 'classifiers'; found"),
    ],
)
def test_probes_that_do_not_fit_are_refused(vjepa2, tmp_path, change, options, message):
    official = read_torch_checkpoint(SECOND)
    official = official | {"classifiers": [dict(official["classifiers"][0])]}
    change(official)
    options = {"num_attention_heads": 4} | options
    with pytest.raises(ConversionError, match=message):
        convert_probe(saved(official, tmp_path), vjepa2, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_probe_and_encoder_of_different_variants_are_refused(vjepa2, ek100, tmp_path):
    first = encoder("vjepa", tmp_path / "e1")
    with pytest.raises(ConversionError, match="probe of V-JEPA 2 is under the entry 'classifiers'.*'classifier'"):
        convert_probe(FIRST, vjepa2, tmp_path / "m")
    with pytest.raises(
        ConversionError, match="probe of V-JEPA is under the entry 'classifier'; found .*'classifiers'"
    ):
        convert_probe(SECOND, first, tmp_path / "m")
    deeper = {"classifier": wide(5, depth=3)["classifiers"][0]}
    with pytest.raises(ConversionError, match=r"not an official V-JEPA probe.*no place.*pooler\.blocks"):
        convert_probe(saved(deeper, tmp_path), first, tmp_path / "m")
    image = encoder("ijepa", tmp_path / "i")
    with pytest.raises(ConversionError, match="I-JEPA, which has no official probes"):
        convert_probe(SECOND, image, tmp_path / "m")
    newer = encoder("vjepa2_1", tmp_path / "e21", hidden_size=40, pred_num_attention_heads=2)
    with pytest.raises(ConversionError, match="anticipation, for which V-JEPA 2.1 has no model"):
        convert_probe(EK100, newer, tmp_path / "m", num_attention_heads=4)
    with pytest.raises(ConversionError, match="name no layers"):
        convert_probe(EK100, ek100, tmp_path / "m", num_attention_heads=4, layers=[0])
    with pytest.raises(ConversionError, match="--labels names the classes of a video classifier"):
        convert_probe(EK100, ek100, tmp_path / "m", num_attention_heads=4, labels=["a"])
    levels = encoder("vjepa2_1", tmp_path / "lv", num_hidden_layers=3, levels=[0, 2])
    with pytest.raises(ConversionError, match=r"layers \[1\] are not there: the encoder's are \[0, 2\]"):
        convert_probe(SECOND, levels, tmp_path / "m", num_attention_heads=4, layers=[1])


def test_encoders_that_are_not_whole_are_refused(vjepa2, tmp_path):
    state = load_file(vjepa2 / "model.safetensors")
    for name, change, message in (
        (
            "missing",
            lambda s: s.pop("vjepa2.encoder.layernorm.bias"),
            "lacks 1 tensors.*vjepa2.encoder.layernorm.bias",
        ),
        ("half", lambda s: s.pop("vjepa2.predictor.proj.bias"), "lacks 1 tensors.*vjepa2.predictor.proj.bias"),
        ("stray", lambda s: s.update({"vjepa2.encoder.stray": torch.zeros(2)}), "1 tensors beside.*stray"),
        (
            "shape",
            lambda s: s.update({"vjepa2.encoder.layernorm.bias": torch.zeros(2)}),
            "other shapes.*layernorm.bias",
        ),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_bytes((vjepa2 / "config.json").read_bytes())
        broken = dict(state)
        change(broken)
        save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConversionError, match=message):
            convert_probe(SECOND, folder, tmp_path / "m", num_attention_heads=4)
    with pytest.raises(ConversionError, match="no released size is converted first, by hf-jepa convert: then"):
        convert_probe(EK100, EK100, tmp_path / "m", num_attention_heads=4)
    for missing in ("none.pt", "folder"):
        with pytest.raises(OSError, match=missing):
            convert_probe(SECOND, tmp_path / missing, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_inspect_names_a_probe_file_and_convert_asks_for_the_encoder(tmp_path, capsys):
    for file, words in (
        (FIRST, ("official V-JEPA probe file", "classification, features of width 32", "num_labels 11", "not used: ")),
        (SECOND, ("official V-JEPA 2 or V-JEPA 2.1 probe file", "classifiers[0]", "num_pooler_layers 3", "epoch")),
        (EK100, ("official V-JEPA 2 checkpoint", "also holds: ", "classifiers")),
    ):
        assert main(["inspect", str(file)]) == 0
        report = capsys.readouterr().out
        assert all(word in report for word in words), report
    assert main(["convert", str(SECOND), "--output", str(tmp_path / "m")]) == 2
    assert "hf-jepa convert --probe FILE --encoder CHECKPOINT" in capsys.readouterr().err
    assert main(["convert", "--probe", str(SECOND), "--output", str(tmp_path / "m")]) == 2
    assert "give --encoder" in capsys.readouterr().err
    official = read_torch_checkpoint(SECOND)
    state = {key: value.clone() for key, value in official["classifiers"][0].items()}
    state["module.linear.bias"][0] = torch.inf
    report, fine = inspect_checkpoint(saved({"classifiers": [state]}, tmp_path))
    assert not fine and "NaN or infinity in 1 tensors: 0.linear.bias" in report
