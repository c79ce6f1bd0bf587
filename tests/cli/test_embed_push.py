"""`hf-jepa embed --push-to-hub` uploads the rows that it writes, without the folders of this machine."""

import datasets
import pytest
import torch

from hf_jepa.cli.main import main


TOKEN = "hf_" + "x" * 30


@pytest.fixture
def pushed(monkeypatch):
    """What a data set was pushed with, instead of an upload."""
    calls = []

    def push_to_hub(self, repo, **options):
        calls.append((self, repo, options))
        return type("Commit", (), {"commit_url": f"https://hub/{repo}"})

    monkeypatch.setattr(datasets.Dataset, "push_to_hub", push_to_hub)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return calls


def test_the_rows_are_pushed_without_local_paths(checkpoint, photos, tmp_path, pushed, capsys):
    options = ["--split", "train[:50%]", "--push-to-hub", "someone/features", "--private"]
    assert main(["embed", str(checkpoint), str(photos), "--output", str(tmp_path / "rows"), *options]) == 0
    assert "uploaded: https://hub/someone/features" in capsys.readouterr().out
    ((rows, repo, told),) = pushed
    local = datasets.load_from_disk(str(tmp_path / "rows"))
    assert (repo, told["split"], told["private"]) == ("someone/features", "train", True)
    assert told["commit_message"] == f"Features of {checkpoint.name}, readout mean"
    assert rows["file"][0] == "train/bright/0.png" and not any(str(photos) in file for file in rows["file"])
    assert local["file"][0] == str(photos / "train/bright/0.png")  # the local one finds its images
    assert rows.features == local.features and rows["label"][:] == local["label"][:]
    torch.testing.assert_close(torch.tensor(rows["features"][:]), torch.tensor(local["features"][:]))


def test_what_cannot_be_pushed_is_refused_before_the_work(checkpoint, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    command = ["embed", str(checkpoint), str(photos), "--output", str(tmp_path / "rows")]
    for options, message in (
        (["--push-to-hub", "someone/features"], "no token to write to someone/features"),
        (["--push-to-hub", "a/b/c"], "a/b/c"),
        (["--private"], "--private says nothing"),
    ):
        assert main([*command, *options]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.hub
def test_features_come_back_from_the_hub(checkpoint, photos, tmp_path, monkeypatch, capsys):
    servers, clients = pytest.importorskip("hub_server"), pytest.importorskip("hub_client")
    with servers.HubServer() as hub, clients.connected(hub, tmp_path / "cache"):
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        options = ["--output", str(tmp_path / "rows"), "--push-to-hub", "alice/features", "--private"]
        assert main(["embed", str(checkpoint), str(photos), *options]) == 0
        repo = hub.repo("datasets/alice/features")
        assert repo.private
        (name,) = (path for path in repo.at("main").files if path.endswith(".parquet"))
        (tmp_path / "pulled.parquet").write_bytes(hub.blobs[repo.at("main").files[name].oid])
    assert servers.WRITE not in "".join(capsys.readouterr())
    pulled = datasets.Dataset.from_parquet(str(tmp_path / "pulled.parquet"), cache_dir=str(tmp_path / "arrow"))
    local = datasets.load_from_disk(str(tmp_path / "rows"))
    assert pulled["features"][:] == local["features"][:] and pulled["file"][0] == "train/bright/0.png"
