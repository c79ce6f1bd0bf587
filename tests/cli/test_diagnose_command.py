"""`hf-jepa diagnose`: the report, the JSON, the picture."""

import json

import pytest
from PIL import Image
from test_main import refused

from hf_jepa.cli.main import main


@pytest.fixture
def run(tmp_path):
    """The folder of a run in which the context shows the targets."""
    log = [
        {"step": step, "loss": 1 / step, "image_share": 0.6, "rankme": 30.0, "visible_targets": 0.9, "momentum": 0.99}
        | {"prediction_image_cosine": 0.5, "context_tokens": 40.0, "target_tokens": 9.0, "verdict": "healthy"}
        for step in range(5, 61, 5)
    ]
    state = {"log_history": [*log, {"step": 60, "train_runtime": 1.0}], "global_step": 60, "max_steps": 80}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/trainer_state.json").write_text(json.dumps(state))
    return tmp_path / "run"


def test_the_report_names_cause_confidence_evidence_and_advice(run, capsys):
    assert main(["diagnose", str(run)]) == 0
    text = capsys.readouterr().out
    assert "60 steps: sick" in text.splitlines()[0]
    assert "cause       leak\nconfidence  high\nevidence    the context shows 90% of the target tokens" in text
    assert "advice      take targets out of the context" in text
    assert "note        the log ends at step 60 of 80" in text
    assert max(map(len, text.splitlines())) <= 100 + len(str(run))


def test_json_holds_the_same(run, capsys):
    assert main(["diagnose", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "sick" and [finding["cause"] for finding in found["findings"]] == ["leak"]
    assert found["findings"][0]["advice"].startswith("take targets out") and found["findings"][0]["evidence"]


def test_the_picture_is_drawn(run, tmp_path, capsys):
    assert main(["diagnose", str(run), "--output", str(tmp_path / "signals.png")]) == 0
    with Image.open(tmp_path / "signals.png") as picture:
        assert picture.size[0] > 600


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path, capsys):
    assert "has no trainer_state.json" in refused(["diagnose", tmp_path], capsys)
