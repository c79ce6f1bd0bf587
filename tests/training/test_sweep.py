"""A run for every value of a field: what is run, kept, compared and written."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_jepa.training import comparison
from hf_jepa.training import sweep as sweeps
from hf_jepa.training.sweep import best, sweep


ROOT = Path(__file__).parents[2]
ENCODER = {"model_type": "ijepa", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ENCODER |= {"intermediate_size": 32, "image_size": 16, "patch_size": 8}
CONFIG = {"backbone_config": ENCODER, "proj_hidden_size": 16, "proj_size": 8, "sigreg_num_slices": 8}


@pytest.fixture
def argv(tmp_path):
    options = {"dataset": "embedded", "generated_length": 16, "model_config": json.dumps(CONFIG), "max_steps": 2}
    options |= {"num_local_views": 0, "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no"}
    options |= {"report_to": "none", "use_cpu": "true", "disable_tqdm": "true", "output_dir": tmp_path / "out"}
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


@pytest.fixture
def recorded(monkeypatch):
    """What `pretrain` is called with, instead of training."""
    calls = []

    def record(variant, argv):
        calls.append({name[2:]: value for name, value in zip(argv[::2], argv[1::2], strict=True)})
        logged = {"loss": 1.0, "rankme": float(len(calls)), "verdict": "healthy"}
        return SimpleNamespace(state=SimpleNamespace(log_history=[logged | {"rankme": 0.0}]), summary=lambda: logged)

    monkeypatch.setattr(sweeps, "pretrain", record)
    return calls


def test_a_sweep_prints_its_table_and_keeps_its_runs(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "GALLERY_PER_PICTURE", 4)
    monkeypatch.setattr(comparison, "TEST_PER_PICTURE", 2)
    monkeypatch.setattr(comparison, "WEIGHT_DECAYS", (10.0,))
    monkeypatch.syspath_prepend(str(ROOT / "training_scripts"))
    script = import_module("sweep_image")
    command = ["lejepa", *argv, "--knn", "--sweep", "sigreg_weight", "0.1", "0.9"]
    script.main(command)
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out/sweep.json").read_text())
    low, high = results["rows"]
    assert 0 < low["regularization_loss"] < high["regularization_loss"]  # the weight has reached the model
    assert all(0 <= row["knn"] <= 1 and row["rankme"] > 0 for row in (low, high))
    assert (tmp_path / "out/sigreg_weight=0.1/model.safetensors").exists()
    assert "sigreg_weight" in printed and "best by the highest k-NN" in printed and "steps " not in printed
    assert f"| {results['best']} * | " in (tmp_path / "out/sweep.md").read_text()

    def refuse(*args):
        raise AssertionError("repeated")

    monkeypatch.setattr(sweeps, "pretrain", refuse)
    script.main(command)
    assert json.loads((tmp_path / "out/sweep.json").read_text()) == results
    with pytest.raises(AssertionError, match="repeated"):
        script.main([*command[:-2], "0.1", "0.5"])
    del sys.modules["sweep_image"]


def test_a_field_of_the_config_is_changed_beside_the_others(argv, recorded):
    results = sweep("lejepa", argv, "sigreg_weight", ["0.1", "0.2"], knn=False)
    configs = [json.loads(call["model_config"]) for call in recorded]
    assert configs == [CONFIG | {"sigreg_weight": 0.1}, CONFIG | {"sigreg_weight": 0.2}]
    assert len({call["output_dir"] for call in recorded}) == 2
    assert results["best"] == "0.2"  # of the higher RankMe


def test_a_field_of_the_recipe_is_changed(argv, recorded):
    sweep("lejepa", argv, "learning_rate", ["0.1", "1e-3"], knn=False)
    assert [call["learning_rate"] for call in recorded] == ["0.1", "1e-3"]
    assert all(json.loads(call["model_config"]) == CONFIG for call in recorded)
    sweep("lejepa", [*argv, "--seed", "1"], "learning_rate", ["0.1"], knn=False)
    assert len(recorded) == 3  # another recipe is another run


@pytest.mark.parametrize(
    ("field", "values", "more", "message"),
    [
        ("sigreg_wieght", ["1"], [], "no field sigreg_wieght .did you mean sigreg_weight"),
        ("seed", ["1", "1"], [], "values of seed are there twice"),
        ("seed", ["1"], ["--dataset", "photos"], "--knn is for dataset 'embedded'"),
    ],
)
def test_what_cannot_be_swept_is_refused(argv, recorded, field, values, more, message):
    with pytest.raises(ValueError, match=message):
        sweep("lejepa", [*argv, *more], field, values, knn=True)
    assert not recorded


def test_the_best_is_healthy():
    rows = [{"value": str(i), "rankme": 9.0 - i, "knn": k} for i, k in enumerate((0.9, 0.5, 0.6))]
    verdicts = ("collapsed", "healthy", "healthy")
    assert best([row | {"verdict": verdict} for row, verdict in zip(rows, verdicts, strict=True)]) == "2"
    unknown = [row | {"knn": None, "verdict": "healthy"} for row in rows]
    assert best(unknown) == "0"
    assert best([row | {"verdict": "collapsed"} for row in rows]) is None
