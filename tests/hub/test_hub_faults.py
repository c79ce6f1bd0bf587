"""What goes wrong on the way to the Hub and back, and what `verify` notices."""

import json
from pathlib import Path

import pytest
from hub_client import FILES, REPO, change, error_line, push
from huggingface_hub import HfApi, hf_hub_download

from hf_jepa.cli.main import main
from hf_jepa.hub.fingerprint import FILE_NAME
from hf_jepa.hub.publish import publish


pytestmark = pytest.mark.hub


# --- what goes wrong on the way -----------------------------------------------------------------------------------

STEPS = {
    "create": "POST /api/repos/create",
    "look": "GET /api/models",
    "card": "POST /api/validate-yaml",
    "preupload": "POST .*/preupload/",
    "batch": "POST .*/objects/batch",
    "storage": "PUT /lfs/",
    "verify": "POST /lfs/.*/verify",
    "commit": "POST .*/commit/",
}


@pytest.mark.parametrize("status", [429, 500, None])
@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_a_push_is_tried_again(hub, client, folder, step, status, monkeypatch):
    monkeypatch.setattr("hf_jepa.hub.publish.PAUSES", (0, 0, 0))
    hub.fail(STEPS[step], status, times=2)
    publish(folder, REPO)
    assert not hub.faults[0].times, "the fault has struck"
    assert sorted(hub.files(REPO)) == FILES and len(hub.titles(REPO)) == 2


DOWNLOADS = {
    "look": "GET /api/models/alice/tiny$",
    "list": "GET .*/tree/",
    "head": "HEAD .*/resolve/",
    "storage": "GET /cdn/",
}


@pytest.mark.parametrize("status", [429, 500, None])
@pytest.mark.parametrize("step", DOWNLOADS)
def test_every_step_of_a_download_is_tried_again(hub, client, folder, step, status, monkeypatch):
    monkeypatch.setattr("hf_jepa.hub.publish.PAUSES", (0, 0, 0))
    publish(folder, REPO)
    hub.fail(DOWNLOADS[step], status, times=2)
    assert main(["verify", REPO]) == 0
    assert not hub.faults[0].times, "the fault has struck"


@pytest.mark.parametrize("status", [500, None])
def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub, client, folder, status, monkeypatch):
    monkeypatch.setattr("hf_jepa.hub.publish.PAUSES", (0,))
    hub.fail("POST .*/commit/", status, done=True)
    commit = publish(folder, REPO).commit
    assert hub.titles(REPO) == ["Upload model", "initial commit"]
    assert commit.oid == hub.repos["models/" + REPO].at("main").sha


def test_a_pull_request_whose_answer_is_lost_is_not_opened_twice(hub, client, folder):
    publish(folder, REPO)
    change(folder)
    hub.fail("POST .*/commit/", 500, done=True)
    with pytest.raises(OSError, match="answered 500"):
        publish(folder, REPO, pull_request=True)
    assert [ref for ref in hub.repos["models/" + REPO].refs if "pr" in ref.split("/")] == ["refs/pr/1"]


@pytest.mark.parametrize("status", [500, None])
def test_an_interrupted_upload_leaves_what_was_there_and_can_be_repeated(hub, client, folder, capsys, status):
    publish(folder, REPO)
    before, published = hub.files(REPO), (folder / "model.safetensors").read_bytes()
    change(folder)
    hub.fail("PUT /lfs/", status, times=6)  # as often as it is tried
    assert push(folder, REPO) == 2
    line = error_line(capsys)
    assert f"{REPO} is as it was" in line and "Run the same again" in line
    assert hub.files(REPO) == before and len(hub.titles(REPO)) == 2
    assert Path(hf_hub_download(REPO, "model.safetensors")).read_bytes() == published
    assert push(folder, REPO) == 0
    assert hub.files(REPO)["model.safetensors"] == (folder / "model.safetensors").read_bytes() != published
    assert len(hub.titles(REPO)) == 3 and main(["verify", REPO]) == 0


def test_large_files_that_have_arrived_are_not_sent_again(hub, client, folder, monkeypatch):
    monkeypatch.setattr("hf_jepa.hub.publish.PAUSES", ())
    hub.fail("POST .*/commit/", 500)
    with pytest.raises(OSError, match="answered 500"):
        publish(folder, REPO)
    assert sorted(hub.files(REPO)) == [".gitattributes"]
    publish(folder, REPO)
    assert sum(line.startswith("PUT /lfs/") for line in hub.log) == 1 and sorted(hub.files(REPO)) == FILES


def test_a_commit_of_somebody_else_in_between_is_not_overwritten(hub, client, folder, monkeypatch, capsys):
    publish(folder, REPO)
    change(folder)
    repo, answer = hub.repos["models/" + REPO], hub.lfs_put

    def meanwhile(request, oid):
        repo.add("refs/heads/main", "somebody else", dict(repo.at("main").files))
        return answer(request, oid)

    monkeypatch.setattr(hub, "lfs_put", meanwhile)
    assert push(folder, REPO) == 2
    assert "was changed by somebody else meanwhile" in error_line(capsys)
    assert hub.titles(REPO)[0] == "somebody else"


def test_a_hub_that_is_not_there(client, hub, folder, monkeypatch, capsys):
    monkeypatch.setattr("hf_jepa.hub.publish.PAUSES", ())
    hub.__exit__()
    assert push(folder, REPO) == 2
    assert "the Hub cannot be reached" in error_line(capsys)


# --- verify -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", FILE_NAME])
def test_other_bytes_than_the_hub_names_are_noticed(hub, client, folder, name, capsys):
    publish(folder, REPO)
    hub.tamper(REPO, name)
    assert main(["verify", REPO]) == 1
    out = capsys.readouterr().out
    assert f"{name} has the {'sha256' if name.endswith('s') else 'git-sha1'}" in out and "do not use them" in out
    assert "fingerprint agrees" not in out


def test_a_cached_copy_that_was_changed_is_noticed(hub, client, folder, capsys):
    publish(folder, REPO)
    path = Path(hf_hub_download(REPO, "model.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["verify", REPO]) == 1
    assert "model.safetensors has the sha256" in capsys.readouterr().out


def test_weights_that_were_published_with_another_fingerprint_are_noticed(hub, client, folder, capsys):
    fingerprint = json.loads((folder / FILE_NAME).read_text())
    fingerprint["mean"] += 0.1
    (folder / FILE_NAME).write_text(json.dumps(fingerprint))
    assert push(folder, REPO) == 2 and hub.repos == {}
    assert "is not published: fingerprint differs: mean is" in error_line(capsys)
    HfApi().create_repo(REPO)
    HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    assert main(["verify", REPO]) == main(["verify", str(folder)]) == 1
    assert "fingerprint differs: mean is" in capsys.readouterr().out


def test_without_fingerprint_nothing_is_vouched_for(hub, client, folder, capsys):
    (folder / FILE_NAME).unlink()
    publish(folder, REPO)
    for source in (REPO, str(folder)):
        assert main(["verify", source]) == 2
        assert f"{source} has no fingerprint.json to compare" in error_line(capsys)
