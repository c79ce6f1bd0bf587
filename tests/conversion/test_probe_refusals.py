"""Official probes that do not fit: to their encoder, to their layout or to what is asked."""

import pytest
import torch
from official_probe import EK100, FIRST, SECOND, encoder, saved, wide
from safetensors.torch import load_file, save_file

from hf_jepa.cli.main import main
from hf_jepa.core.key_map import ConversionError
from hf_jepa.core.probe_conversion import UNUSED_PROJECTION
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.hub.probes import convert_probe


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
