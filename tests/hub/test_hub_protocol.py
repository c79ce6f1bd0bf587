"""Publishing and loading against a server that is as strict as the Hub."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import torch
from hub_client import FILES, REPO, change, connected, error_line, push, save_model
from hub_server import READ, STRANGER, TOKENS, WRITE
from huggingface_hub import HfApi, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file

from hf_jepa.cli.main import main
from hf_jepa.hub.fingerprint import FILE_NAME
from hf_jepa.hub.publish import publish
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining, IJepaModel
from hf_jepa.registry import VARIANTS


pytestmark = pytest.mark.hub


# --- publish and load ---------------------------------------------------------------------------------------------


def test_a_large_folder_goes_up_by_lfs_in_one_commit_and_comes_down_as_it_was(hub, client, tmp_path, capsys):
    folder = tmp_path / "model"
    save_model(folder, hidden_size=256, intermediate_size=1024, num_hidden_layers=3)
    size = (folder / "model.safetensors").stat().st_size
    assert size > 10 * 2**20
    assert push(folder, REPO) == 0
    out = capsys.readouterr().out
    (url,) = [line for line in out.splitlines() if line.startswith("http")]
    assert url == f"{hub.url}/{REPO}/commit/{hub.repos['models/' + REPO].at('main').sha}"
    assert hub.titles(REPO) == ["Upload model", "initial commit"]
    assert sorted(hub.files(REPO)) == FILES
    assert hub.repos["models/" + REPO].at("main").files["model.safetensors"].lfs
    (upload,) = [line for line in hub.log if line.startswith("PUT /lfs/")]
    assert upload.endswith(" 200 None"), "the storage needs no token, and gets none"
    again = Path(snapshot_download(REPO))
    for name in FILES[1:]:
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert main(["verify", REPO]) == 0
    assert "all 5 files have the hashes" in capsys.readouterr().out


def test_an_official_file_is_converted_and_published_by_one_command(hub, client, tmp_path, capsys):
    official = Path(__file__).parents[1] / "fixtures/golden/ijepa/encoder_forward/checkpoint.pt"
    options = ["--output", str(tmp_path / "converted"), "--num-attention-heads", "4", "--license", "mit"]
    options += ["--push-to-hub", REPO]
    assert main(["convert", str(official), *options]) == 0
    assert f"published: {hub.url}/{REPO}/commit/" in capsys.readouterr().out
    assert main(["verify", REPO]) == 0
    card = ModelCard.load(hf_hub_download(REPO, "README.md"))
    assert card.data.license == "mit" and f'from_pretrained("{REPO}")' in card.text


def test_another_process_with_an_empty_cache_loads_the_same(hub, client, folder, tmp_path):
    publish(folder, REPO)
    code = (
        "import sys, torch\n"
        "from transformers import AutoModel\n"
        f"model = AutoModel.from_pretrained({REPO!r})\n"
        "torch.save(model(torch.ones(1, 3, 32, 32)).last_hidden_state, sys.argv[1])"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "other"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "out.pt")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = IJepaModel.from_pretrained(folder)(torch.ones(1, 3, 32, 32)).last_hidden_state
    assert torch.equal(torch.load(tmp_path / "out.pt", weights_only=True), expected)


def test_weights_of_another_number_of_shards_replace_the_old_ones(hub, client, folder, tmp_path):
    (folder / "model.safetensors").unlink()
    IJepaForPreTraining(IJepaConfig(**VARIANTS["ijepa"].tiny)).save_pretrained(folder, max_shard_size="50KB")
    (folder / FILE_NAME).unlink()
    publish(folder, REPO)
    assert "model.safetensors.index.json" in hub.files(REPO)
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=REPO)
    model = save_model(tmp_path / "whole")
    publish(tmp_path / "whole", REPO)
    assert sorted(hub.files(REPO)) == sorted([*FILES, "notes.txt"])
    found = IJepaForPreTraining.from_pretrained(REPO).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())


def test_a_branch_leaves_main_alone_and_revisions_load(hub, client, folder):
    publish(folder, REPO)
    HfApi().create_tag(REPO, tag="v1")
    before = IJepaModel.from_pretrained(REPO, revision="v1").layernorm.bias
    change(folder)
    assert push(folder, REPO, "--revision", "later/try", "--message", "second") == 0
    assert hub.titles(REPO, "later/try") == ["second", "Upload model", "initial commit"]
    assert hub.titles(REPO) == hub.titles(REPO, "v1") == ["Upload model", "initial commit"]
    assert torch.equal(IJepaModel.from_pretrained(REPO).layernorm.bias, before)
    found = IJepaModel.from_pretrained(REPO, revision="later/try").layernorm.bias
    torch.testing.assert_close(found, before + 0.01)
    assert main(["verify", REPO, "--revision", "later/try"]) == main(["verify", REPO, "--revision", "v1"]) == 0
    refs = HfApi().list_repo_refs(REPO)
    assert {ref.name for ref in refs.branches} == {"main", "later/try"} and refs.tags[0].name == "v1"


def test_nothing_new_makes_no_commit(hub, client, folder):
    first = publish(folder, REPO).commit
    assert publish(folder, REPO).commit.oid == first.oid
    assert len(hub.titles(REPO)) == 2


def test_a_pull_request_of_one_who_may_not_write(hub, client, folder, tmp_path, capsys):
    publish(folder, REPO)
    change(folder)
    with connected(hub, tmp_path / "bob", STRANGER):
        assert push(folder, REPO) == 2
        line = error_line(capsys)
        assert f"may not write to {REPO}" in line and "pull request" in line
        assert push(folder, REPO, "--pr") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/{REPO}/discussions/1"
    assert len(hub.titles(REPO)) == 2 and len(hub.titles(REPO, "refs/pr/1")) == 3
    assert push(folder, REPO, "--revision", "refs/pr/1", "--message", "nothing new") == 0
    assert len(hub.titles(REPO, "refs/pr/1")) == 3
    change(folder)
    assert push(folder, REPO, "--revision", "refs/pr/1", "--message", "more") == 0
    assert hub.titles(REPO, "refs/pr/1")[0] == "more" and len(hub.titles(REPO)) == 2
    assert main(["verify", REPO, "--revision", "refs/pr/1"]) == 0


# --- what transformers pushes -------------------------------------------------------------------------------------


def test_models_and_processors_push_themselves(hub, client, folder):
    model = IJepaForPreTraining.from_pretrained(folder)
    model.push_to_hub(REPO, max_shard_size="50KB", revision="shards")
    processor = IJepaImageProcessor.from_config(model.config)
    processor.push_to_hub(REPO, revision="shards")
    assert sum(name.startswith("model-0") for name in hub.files(REPO, "shards")) > 1
    assert "preprocessor_config.json" in hub.files(REPO, "shards")
    again = IJepaForPreTraining.from_pretrained(REPO, revision="shards").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert IJepaImageProcessor.from_pretrained(REPO, revision="shards").to_dict() == processor.to_dict()


# --- who may do what ----------------------------------------------------------------------------------------------


def test_a_private_repository_shows_nothing_to_others(hub, client, folder, tmp_path, capsys):
    assert push(folder, REPO, "--private") == 0
    assert HfApi().model_info(REPO).private
    capsys.readouterr()
    secret = load_file(folder / "model.safetensors")
    for token in (None, STRANGER):
        with connected(hub, tmp_path / f"cache-{token}", token):
            errors = []
            for name in (REPO, "alice/there-is-none"):
                for call in (
                    lambda name=name: HfApi().model_info(name, files_metadata=True),
                    lambda name=name: HfApi().list_repo_files(name),
                    lambda name=name: HfApi().list_repo_refs(name),
                    lambda name=name: HfApi().get_paths_info(name, ["config.json"]),
                    lambda name=name: hf_hub_download(name, "config.json"),
                    lambda name=name: snapshot_download(name),
                ):
                    with pytest.raises((RepositoryNotFoundError, HfHubHTTPError)) as caught:
                        call()
                    response = caught.value.response
                    errors.append((response.status_code, response.content.replace(name.encode(), b"")))
            half = len(errors) // 2
            assert errors[:half] == errors[half:], "what is private and what does not exist look alike"
            assert {status for status, _ in errors} == ({401} if token is None else {404})
            assert main(["verify", REPO]) == 2
            assert "does not exist, or is private" in error_line(capsys)
            assert not list((tmp_path / f"cache-{token}").rglob("*.safetensors"))
    with connected(hub, tmp_path / "reader", READ):
        found = load_file(f"{snapshot_download(REPO)}/model.safetensors")
    assert all(torch.equal(value, found[name]) for name, value in secret.items())


def test_storage_addresses_of_private_files_cannot_be_guessed(hub, client, folder):
    publish(folder, REPO, private=True)
    oid = hub.repos["models/" + REPO].at("main").files["model.safetensors"].oid
    assert httpx2.get(f"{hub.url}/cdn/{oid}").status_code == 403
    assert httpx2.put(f"{hub.url}/lfs/{oid}", content=b"other").status_code == 403


@pytest.mark.parametrize("exists", [True, False])
def test_a_token_that_only_reads_is_named_in_one_line(hub, client, folder, tmp_path, capsys, exists):
    if exists:
        publish(folder, REPO)
        change(folder)
    with connected(hub, tmp_path / "reader", READ):
        assert push(folder, REPO) == 2
    line = error_line(capsys)
    assert f"your token may not write to {REPO}" in line and "role 'write'" in line
    assert len(hub.titles(REPO)) == 2 if exists else hub.repos == {}


def test_no_token_and_a_wrong_one(hub, client, folder, tmp_path, capsys):
    with connected(hub, tmp_path / "none", None):
        assert push(folder, REPO) == 2
    assert "no token to write to alice/tiny with: log in" in error_line(capsys)
    assert hub.log == [], "nobody was asked"
    with connected(hub, tmp_path / "wrong", "hf_wrongwrongwrongwrongwrong"):
        assert push(folder, REPO) == 2
    assert "does not know your token" in error_line(capsys)
    assert hub.repos == {}


def test_a_name_that_is_taken(hub, client, folder, tmp_path, capsys):
    HfApi().create_repo(REPO)
    HfApi().upload_file(path_or_fileobj=b'{"model_type": "bert"}', path_in_repo="config.json", repo_id=REPO)
    assert push(folder, REPO) == 2
    assert "exists and holds a model of type 'bert'" in error_line(capsys)
    HfApi().create_repo("alice/public")
    assert push(folder, "alice/public", "--private") == 2
    assert "alice/public exists and is public" in error_line(capsys)
    assert push(folder, "bob/tiny") == 2
    assert "may not write to bob/tiny" in error_line(capsys)
    with pytest.raises(HfHubHTTPError, match="already created"):
        HfApi().create_repo(REPO)
    assert len(hub.titles(REPO)) == 2 and len(hub.titles("alice/public")) == 1


def test_wrong_revisions_are_named(hub, client, folder, capsys):
    publish(folder, REPO)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "config.json", revision="v9")
    with pytest.raises(OSError, match="v9"):
        IJepaModel.from_pretrained(REPO, revision="v9")
    assert main(["verify", REPO, "--revision", "v9"]) == 2
    assert "has no such revision" in error_line(capsys)
    assert main(["verify", str(folder), "--revision", "v9"]) == 2
    assert "is a folder, which has no revision 'v9'" in error_line(capsys)
    assert main(["verify", "no-such-folder"]) == 2
    assert "neither a folder nor the id" in error_line(capsys)


def test_a_card_that_the_hub_does_not_take_ends_before_anything_is_uploaded(hub, client, folder, capsys):
    (folder / "README.md").write_text("---\nlicense: As You Like It\n---\n# Tiny\n")
    assert push(folder, REPO) == 2
    assert "\"license\" is 'As You Like It'" in error_line(capsys)
    assert not any("lfs" in line for line in hub.log) and len(hub.titles(REPO)) == 1


def test_tokens_stay_where_they_are(hub, client, folder, tmp_path, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    hub.fail("PUT /lfs/", 500)
    assert push(folder, REPO) == main(["verify", REPO]) == 0
    IJepaForPreTraining.from_pretrained(REPO).push_to_hub("alice/other", token=WRITE)
    with connected(hub, tmp_path / "reader", READ):
        assert push(folder, "alice/third") == 2
    shown = "".join(capsys.readouterr()) + caplog.text + "".join(hub.log)
    kept = [*hub.blobs.values(), *(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())]
    titles = "".join(hub.titles(REPO) + hub.titles("alice/other"))
    for token in TOKENS:
        assert token not in shown + titles and not any(token.encode() in content for content in kept)
    assert "license: cc-by-nc-4.0" in str(ModelCard.load(REPO))
