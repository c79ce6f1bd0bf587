"""The folder of a run that was stopped is no checkpoint, and says which folder is one."""

import json

import pytest
from test_main import refused

from hf_jepa.hub.publish import check_folder
from hf_jepa.hub.run_folders import require_finished
from hf_jepa.registry import VARIANTS


@pytest.fixture
def run(tmp_path):
    """A run of which steps 4 and 20 were saved, and step 8 as its end."""
    folder = tmp_path / "run"
    for step in (4, 20):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
    return folder


def ended(folder, step):
    variant = VARIANTS["ijepa"]
    variant.model_class()(variant.config_class()(**variant.tiny)).save_pretrained(folder)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def test_a_stopped_run_names_its_newest_checkpoint(run, tmp_path, capsys):
    message = "its weights are in checkpoint-20"
    with pytest.raises(ValueError, match=message):
        require_finished(run)
    for command in (["embed", run, "photos", "--output", tmp_path / "out"], ["inspect", run], ["push", run, "me/x"]):
        assert message in refused(command, capsys)


def test_weights_that_the_run_has_left_behind_are_refused(run, tmp_path, capsys):
    ended(run, 8)
    message = "has the weights of step 8, and later ones in checkpoint-20"
    with pytest.raises(ValueError, match=message):
        check_folder(run)
    assert message in refused(["embed", run, "photos", "--output", tmp_path / "out"], capsys)
    train = ["train", "ijepa", "--dataset", "embedded", "--model_name_or_path", run, "--output_dir", tmp_path / "new"]
    assert message in refused([*train, "--use_cpu", "true"], capsys)


def test_a_finished_run_and_other_folders_pass(run, tmp_path):
    ended(run, 20)
    require_finished(run)
    require_finished(tmp_path / "none")
    (run / "checkpoint-best").mkdir()  # not one of a step
    require_finished(run)


def test_an_empty_folder_is_told(tmp_path, capsys):
    assert "is empty" in refused(["embed", tmp_path, "photos", "--output", tmp_path / "out"], capsys)
