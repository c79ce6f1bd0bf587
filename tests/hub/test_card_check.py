"""`check_card` passes what the package writes itself, and names each fault in one line."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import EvalResult

from hf_jepa.cli.main import main
from hf_jepa.hub.card_check import HUB_TASKS, check_card
from hf_jepa.hub.card_uses import ENCODER_USES, USES
from hf_jepa.hub.cards import build_card
from hf_jepa.hub.conversion import convert_checkpoint
from hf_jepa.hub.fingerprint import write_fingerprint
from hf_jepa.models.ijepa.modeling_ijepa import IJepaModel
from hf_jepa.registry import VARIANTS


IJEPA = VARIANTS["ijepa"]
TOKEN = "hf_" + "aB3" * 9
SCORE = {"task_type": "image-classification", "dataset_type": "a/b", "dataset_name": "a/b", "dataset_split": "test"}
SCORE |= {"metric_type": "accuracy", "metric_name": "top1", "metric_value": 0.5}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return IJepaModel(IJEPA.config_class()(**IJEPA.tiny))


@pytest.fixture
def folder(model, tmp_path):
    """A checkpoint with a card that has everything, and no fault."""
    model.save_pretrained(tmp_path)
    found = write_fingerprint(model, tmp_path)
    facts = {
        "Converted from": "`my.pth.tar`",
        "Architecture of": "`IN1K-vit.h.14-300e.pth.tar`",
        "Fingerprint": f"mean {found['mean']:.6f}, std {found['std']:.6f} (`fingerprint.json`)",
    }
    card = build_card(
        IJEPA,
        model.config,
        "my model",
        facts,
        "cc-by-nc-4.0",
        "Not verified.",
        "someone/model",
        recipe={"seed": 1},
        results=[EvalResult(**SCORE)],
        base_model="a/b",
        datasets=["imagenet-1k"],
    )
    card.save(tmp_path / "README.md")
    return tmp_path


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "README.md"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_complete_card_has_no_fault(folder, capsys):
    assert check_card(folder) == []
    assert main(["card", str(folder)]) == 0
    assert "# my model" in capsys.readouterr().out


@pytest.mark.parametrize("name", VARIANTS)
def test_the_cards_of_all_variants_and_tasks_have_no_fault(name, tmp_path):
    variant = VARIANTS[name]
    config = variant.config_class()(**(variant.tiny if variant.base_model else {}))
    heads = {"AutoModelForImageClassification": "image-classification"}
    heads |= {"AutoModelForVideoClassification": "video-classification"}
    tasks = {heads[head] for head in variant.heads if head in heads} | ({None} if variant.base_model else set())
    if name == "llm_jepa":
        tasks = {task for task in USES if task.startswith("text-generation")}
    if "anticipation" in variant.parts:
        tasks.add("action-anticipation")
    assert tasks
    for task in tasks:
        arguments = (variant, config, "name", {"Seen": "nothing"}, "mit", "Not verified.", "someone/model")
        build_card(*arguments, task=task, starts_from="someone/start").save(tmp_path / "README.md")
        assert check_card(tmp_path) == []
    assert set(ENCODER_USES) >= {each.modality for each in VARIANTS.values() if each.base_model}


def test_the_card_of_a_conversion_lacks_but_the_licence_of_unknown_weights(tmp_path):
    official = Path(__file__).resolve().parents[1] / "fixtures/golden/ijepa/encoder_forward/checkpoint.pt"
    heads = {"num_attention_heads": 4, "pred_num_attention_heads": 4}
    convert_checkpoint(IJEPA, official, tmp_path / "converted", **heads)
    assert check_card(tmp_path / "converted") == [
        "the head names no licence of the weights: add a line such as `license: apache-2.0`"
    ]


FAULTS = {
    "license: cc-by-nc-4.0": [
        ("", "names no licence"),
        ("license: mit", "released under 'cc-by-nc-4.0'"),
        ("license: Some Licence", "no identifier"),
        ("license: other", "license_name"),
    ],
    "pipeline_tag: image-feature-extraction": [("", "no pipeline_tag"), ("pipeline_tag: magic", "'magic' is none")],
    "library_name: transformers": [("", "no library_name")],
    "tags:\n": [("tagged:\n", "tags is None")],
    "base_model: a/b": [("base_model: runs/a/b", "'runs/a/b'"), ("base_model: ./b", "'./b'"), ("base_model: 3", "3")],
    "- imagenet-1k": [("- my data", "datasets 'my data'")],
    "value: 0.5": [
        ("value: .nan", "is nan: leave out"),
        ("value: .inf", "is inf: leave out"),
        ("value: '0.5'", "not a number"),
        ("value: 0.6", "no source"),
        ("valeu: 0.5", "the head is not valid"),
    ],
    "| this run |": [("| - |", "no source")],
    "license: ": [("license: [", "the head is not valid")],
    "\n## Limits\n": [("\n", "`## Limits`")],
    "\n## Intended use\n": [("\n", "`## Intended use`")],
    "\n## Citation\n": [("\n", "`## Citation`")],
    "Not verified.": [
        ("[plot](plot.png)", "plot.png leads to no file"),
        ("[plot](../plot.png)", "out of the folder"),
        ('<img src="plot.png">', "plot.png leads to no file"),
        ("From /home/me/runs.", "'/home/me/runs"),
        ("From /data on my disk.", "'/data'"),
        ("From C:\\runs\\a.", "path of this machine"),
        ("From ~/runs.", "path of this machine"),
        (TOKEN, "a token of the Hub"),
    ],
    "**Fingerprint**: mean ": [("**Fingerprint**: mean 1", "fingerprint of the card"), ("**Print**: ", "not tell")],
    "from transformers import AutoModel": [
        ("from transformers import AutoMobile", "takes AutoMobile from transformers"),
        ("from transformers import (AutoModel", "not valid Python"),
        ("from hf_jepa import IJepaModle", "takes IJepaModle from hf_jepa"),
        ("import hf_jepa.modles", "hf_jepa.modles, which does not exist"),
    ],
    "torch.randn": [("torch.rnadn", "takes rnadn from torch")],
    "```python": [("```", "no ```python block")],
}


@pytest.mark.parametrize(
    ("old", "new", "message"), [(old, *case) for old, cases in FAULTS.items() for case in cases], ids=str
)
def test_a_fault_is_one_line(old, new, message, folder, capsys):
    edit(folder, old, new)
    faults = check_card(folder)
    assert [message in fault for fault in faults].count(True) == 1, faults
    assert all("\n" not in fault for fault in faults)
    assert main(["card", str(folder), "--quiet"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == len(faults)


def test_what_is_right_is_not_a_fault(folder):
    (folder / "plot.png").touch()
    text = "[plot](plot.png#top), [site](https://a.org/b/c), [up](#facts), and/or, 1/2/3, `a/b`, runs/a/b, [x]: /1"
    edit(folder, "Not verified.", text)
    edit(folder, "import torch\n", "import torch\n## A comment\nimport nobody_has_this\n")
    assert check_card(folder) == []


def test_a_source_in_the_head_is_enough(folder):
    edit(folder, "| this run |", "| - |")
    edit(folder, "    metrics:\n", "    source:\n      url: https://a.org\n    metrics:\n")
    assert check_card(folder) == []


def test_a_fingerprint_of_no_file_is_a_fault(folder):
    (folder / "fingerprint.json").unlink()
    assert check_card(folder) == ["the card has a fingerprint, but there is no fingerprint.json"]
    (folder / "fingerprint.json").write_text(json.dumps({"mean": "much"}))
    (fault,) = check_card(folder)
    assert "is not a fingerprint" in fault


def test_a_card_without_a_head_says_so(folder):
    (folder / "README.md").write_text("# A model\n")
    assert check_card(folder)[0].startswith("there is no head")


@pytest.mark.parametrize("line", ["license: [" + TOKEN, "license: A " + TOKEN])
def test_tokens_are_not_repeated(line, folder, capsys):
    edit(folder, "license: cc-by-nc-4.0", line)
    assert main(["card", str(folder)]) == 1
    told = "".join(capsys.readouterr())
    assert TOKEN not in told and "holds a token" in told


def test_wrong_folders_are_refused(tmp_path, capsys):
    assert main(["card", str(tmp_path)]) == 2
    assert main(["card", str(tmp_path / "no")]) == 2
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00")
    assert main(["card", str(tmp_path)]) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_code_of_a_stranger_is_not_imported(folder, monkeypatch):
    (folder / "evil_code.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(str(folder))
    edit(folder, "import torch\n", "import torch\nimport evil_code\n")
    assert check_card(folder) == []


def test_known_tags_hold_what_cards_have():
    from hf_jepa.hub.card_uses import PIPELINE_TAGS as SPELT

    assert {SPELT.get(task, task) for task in USES} <= set(HUB_TASKS)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.base_model])
def test_a_card_is_written_where_there_is_none(name, tmp_path, capsys):
    variant, folder = VARIANTS[name], tmp_path / "mine"
    variant.model_class()(variant.config_class()(**variant.tiny)).save_pretrained(folder)
    assert main(["card", str(folder), "--write", "--license", "mit"]) == 0
    assert "license: mit" in capsys.readouterr().out and (folder / "fingerprint.json").is_file()
    assert main(["card", str(folder), "--write"]) == 2
    assert "README.md exists" in capsys.readouterr().err


def test_the_card_that_is_written_is_of_the_head_and_of_these_weights(model, tmp_path, capsys):
    classifier = IJEPA.model_class("IJepaForImageClassification")(model.config)
    classifier.save_pretrained(tmp_path)
    assert main(["card", str(tmp_path), "--write"]) == 1
    shown = capsys.readouterr()
    assert "pipeline_tag: image-classification" in shown.out and "names no licence" in shown.err
    (tmp_path / "README.md").unlink()
    with torch.no_grad():
        classifier.ijepa.layernorm.bias += 1
    classifier.save_pretrained(tmp_path)
    assert main(["card", str(tmp_path), "--write"]) == 2
    assert "the fingerprint is of other weights" in capsys.readouterr().err and not (tmp_path / "README.md").exists()
