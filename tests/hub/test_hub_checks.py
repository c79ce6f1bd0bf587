"""What is looked at before a folder is uploaded; nothing of it needs a Hub."""

import json
import pickle

import pytest
from hub_client import FILES
from safetensors.torch import load_file, save_file

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.fingerprint import FILE_NAME
from hf_jepa.hub.publish import check_folder, publish
from hf_jepa.training.arguments import JepaTrainingArguments


CARD = "---\nlicense: mit\n---\n# Tiny\n"


def test_what_a_run_leaves_stays_behind(folder):
    for name in ("checkpoint-20", "_incomplete", "runs/now", "code"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(b"not these")
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "trainer_state.json", ".env", "_log.json"):
        (folder / name).write_bytes(b"{}")
    (folder / "run.json").write_text("{}")
    (folder / "code" / "model.safetensors").unlink()
    (folder / "code" / "modeling.py").write_text("")
    (folder / "code" / "scheduler.pt").write_bytes(b"")
    contents = check_folder(folder)
    assert contents.files == ["README.md", "code/modeling.py", *FILES[2:], "run.json"]
    assert sorted(contents.left_out) == sorted(
        ["checkpoint-20", "_incomplete", "runs", "training_args.bin", "optimizer.pt", "rng_state.pth"]
        + ["trainer_state.json", ".env", "_log.json", "code/scheduler.pt"]
    )


@pytest.mark.parametrize("name", ["notes.docx", "model.safetensors.tmp", "id_rsa", "code/data.csv"])
def test_a_file_that_belongs_to_no_checkpoint_is_named(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("?")
    with pytest.raises(ValueError, match=f"{name} does not belong to a checkpoint: move it away"):
        check_folder(folder)


def test_folders_are_not_followed_elsewhere(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "private.json").write_text("{}")
    (folder / "code").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="code does not belong to a checkpoint"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, "has no README.md"),
        ("# No head\n", "there is no head"),
        ("---\ntags: [jepa]\n---\n# Tiny\n", "names no licence"),
        ("---\nlicense: [mit\n---\n# Tiny\n", "README.md: the head is not valid"),
        ("---\n- license\n---\n# Tiny\n", "README.md: the head is not valid"),
        (CARD + "from /home/me/runs\n", "README.md: line 5 has a path of this machine"),
    ],
)
def test_a_card_needs_a_head_and_a_licence_and_nothing_private(folder, card, message):
    (folder / "README.md").unlink()
    if card is not None:
        (folder / "README.md").write_text(card)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        check_folder(folder)


def test_what_is_no_checkpoint_of_a_variant(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such is not a folder"):
        check_folder(tmp_path / "no-such")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="model of type 'bert', expected one of"):
        check_folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        check_folder(folder)


def rewrite(folder, change) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(change(state), folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_of_another_fingerprint_or_no_numbers(folder):
    name = "ijepa.layernorm.bias"
    rewrite(folder, lambda state: state | {name: state[name] + 1})
    with pytest.raises(ValueError, match="is not published: fingerprint differs"):
        check_folder(folder)
    rewrite(folder, lambda state: state | {name: state[name] * float("nan")})
    with pytest.raises(ValueError, match="is not published: NaN or infinity in 1 tensors"):
        check_folder(folder)


@pytest.mark.parametrize("with_fingerprint", [True, False])
def test_weights_that_are_missing(folder, with_fingerprint):
    if not with_fingerprint:
        (folder / FILE_NAME).unlink()
    rewrite(folder, lambda state: {key: value for key, value in state.items() if key != "ijepa.layernorm.bias"})
    with pytest.raises(ConversionError, match=r"1 weights are missing.*layernorm.bias"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["README.md", "config.json", "run.json"])
def test_a_token_in_a_file_is_found_and_not_repeated(folder, name, monkeypatch):
    path = folder / name
    for token in ("hf_" + "abcDEF123" * 4, "an-odd-token-of-mine"):
        monkeypatch.setenv("HF_TOKEN", "an-odd-token-of-mine")
        before = path.read_text() if path.exists() else None
        fields = json.loads(before or "{}") if name.endswith(".json") else None
        path.write_text(f"{CARD}{token}" if fields is None else json.dumps(fields | {"note": token}))
        with pytest.raises(ValueError, match=f"{name}.* holds a token of the Hub") as caught:
            check_folder(folder)
        assert token not in str(caught.value)
        path.write_text(before or "{}")
    assert check_folder(folder)


def test_places_that_are_refused_at_once(folder):
    with pytest.raises(ValueError, match="leave out revision 'dev'"):
        publish(folder, "alice/tiny", revision="dev", pull_request=True)
    with pytest.raises(ValueError, match="tiny is no name on the Hub: say owner/name"):
        publish(folder, "tiny")


def test_pickled_arguments_hold_no_token(tmp_path):
    args = JepaTrainingArguments(str(tmp_path), hub_token="hf_secret", use_cpu=True, max_steps=7)
    stored = pickle.dumps(args)
    assert b"hf_secret" not in stored and args.hub_token == "hf_secret"
    assert pickle.loads(stored).max_steps == 7
