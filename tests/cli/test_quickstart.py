"""`hf-jepa quickstart`, shortened: everything it promises is there, and its verdict follows from its numbers."""

import json

import pytest
import torch
from PIL import Image
from test_main import refused
from transformers import AutoModel

from hf_jepa.cli import quickstart, quickstart_recipe
from hf_jepa.cli.main import main


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "runs" / "quickstart"
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:  # a fifth of the crops: most of the time goes into probes of them
        patch.setattr(quickstart_recipe, "GALLERY_PER_PICTURE", 12)
        patch.setattr(quickstart_recipe, "TEST_PER_PICTURE", 6)
        status = main(["quickstart", "--seeds", "1", "--steps", "12", "--output-dir", str(folder)])
    assert torch.get_num_threads() == threads
    return status, folder


def test_leaves_model_pictures_and_results_and_nothing_else(short_run):
    _, folder = short_run
    pictures = ["masks.png", "neighbours.png", "pca.png", "training.png"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*pictures, "model", "results.json"])
    assert [path.name for path in folder.parent.iterdir()] == ["quickstart"]
    for name in pictures:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("L").getcolors()) > 50  # something is drawn


def test_status_follows_from_the_scores(short_run):
    status, folder = short_run
    results = json.loads((folder / "results.json").read_text())
    knn = {row: scores["knn_mean"] for row, scores in results["scores"].items()}
    assert all(len(values) == 1 and 0 < values[0] < 1 for values in knn.values())
    beats = knn["pretrained"][0] > max(knn["raw"][0], knn["untrained"][0])
    assert results["beats_both_in_every_seed"] is beats
    assert status == (0 if beats and results["stock_reload"]["equal"] else 1)


def test_stock_automodel_gave_the_same_features(short_run):
    _, folder = short_run
    reload = json.loads((folder / "results.json").read_text())["stock_reload"]
    assert reload["class"].startswith("transformers.models.ijepa.")
    assert reload["weights_equal"] is True and reload["largest_difference"] < 1e-5
    assert AutoModel.from_pretrained(folder / "model").config.hidden_size == 96


@pytest.mark.distributed
def test_further_seeds_are_scored_in_processes_of_their_own(tmp_path):
    main(["quickstart", "--seeds", "3", "--steps", "2", "--output-dir", str(tmp_path / "q")])
    scores = json.loads((tmp_path / "q/results.json").read_text())["scores"]
    with quickstart_recipe.one_thread():
        crops, model = quickstart_recipe.labelled(2), quickstart_recipe.new_model(2)
        here, _ = quickstart_recipe.seed_scores(2, 2, tmp_path / "work", crops, model)
    assert {row: {probe: values[2] for probe, values in found.items()} for row, found in scores.items()} == here
    assert sorted(path.suffix for path in (tmp_path / "q").iterdir()) == ["", ".json", *4 * [".png"]]


@pytest.mark.parametrize("names", [["thesis.txt"], ["thesis.txt", "results.json"], ["masks.png"]])
def test_foreign_folders_are_left_alone(tmp_path, capsys, names):
    for name in names:
        (tmp_path / name).write_text("years of work")
    assert "holds other files" in refused(["quickstart", "--output-dir", tmp_path], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert "at least 1" in refused(["quickstart", "--seeds", "0", "--output-dir", tmp_path / "new"], capsys)
    assert not (tmp_path / "new").exists()


def test_a_failure_leaves_nothing_and_shows_its_traceback(tmp_path, monkeypatch):
    def broken(seeds, steps, work):
        (work / "half.txt").write_text("half done")
        raise ValueError("a bug")

    monkeypatch.setattr(quickstart, "run", broken)
    with pytest.raises(RuntimeError, match="the quickstart failed"):
        main(["quickstart", "--output-dir", str(tmp_path / "q")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pretrained, beats", [([0.40, 0.45, 0.42], True), ([0.40, 0.45, 0.33], False), ([0.33, 0.33, 0.33], False)]
)
def test_the_worst_seed_must_beat_the_best_of_the_others(pretrained, beats):
    found, sentence = quickstart.compare(
        {"raw": [0.1, 0.2, 0.1], "untrained": [0.3, 0.33, 0.3], "pretrained": pretrained}
    )
    assert found is beats
    assert ("does NOT" in sentence) is not beats and "untrained encoder (0.310 ± 0.017)" in sentence
