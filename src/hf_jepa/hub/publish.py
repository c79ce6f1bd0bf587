"""A folder becomes one commit of a repository on the Hub, after everything in it was looked at."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple, TypeVar

import httpx2
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from transformers.utils import logging

from hf_jepa.hub import card_check
from hf_jepa.hub.files import read_json
from hf_jepa.hub.fingerprint import FILE_NAME, load_target_encoder
from hf_jepa.hub.inspect import inspect_checkpoint, variant_of_folder
from hf_jepa.hub.run_folders import require_finished


# What a run leaves beside its checkpoint, and nobody else wants: pickles, its own checkpoints, logs, hidden files.
LEFT_OUT = (
    "_*",
    ".*",
    "checkpoint-*",
    "runs",
    "trainer_state.json",
    "manifest.json",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.pkl",
)
# What belongs to a checkpoint, its processor or tokenizer, its card, or its code.
PUBLISHED = (".safetensors", ".json", ".md", ".txt", ".jinja", ".model", ".yaml", ".py", ".png", ".jpg", ".svg")
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
TOKEN = re.compile(card_check.TOKEN.pattern.encode())
PAUSES = (1, 4, 16)  # seconds before each further attempt at what huggingface_hub tries only once
INVALID_TOKEN = "Invalid credentials in Authorization header"  # in place of which 401 may mean a missing repository
RETRIED = (429, 500, 502, 503, 504)

T = TypeVar("T")

logger = logging.get_logger(__name__)


class Contents(NamedTuple):
    """The files of a folder, by their paths in it.

    Args:
        files: what is published.
        left_out: files and folders that stay behind.
    """

    files: list[str]
    left_out: list[str]


class Published(NamedTuple):
    """What `publish` did.

    Args:
        commit: with `commit_url`, and `pr_url` of a pull request.
        contents: of the folder.
        card_faults: what `check_card` finds, none of which bars a card.
    """

    commit: CommitInfo
    contents: Contents
    card_faults: list[str]


def publish(
    folder: str | Path,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    pull_request: bool = False,
    message: str | None = None,
) -> Published:
    """Upload a checked folder as one commit, so that nobody ever loads half of it.

    Weights that the repository has and the folder has not are removed by the same commit: those of another number of
    shards would be read together with the new ones. All other files stay.

    `huggingface_hub` splits large folders into several commits (`upload_folder`), and tries the commit itself only
    once (`create_commit`). So this makes one commit of all files and tries that again, each time from what the
    repository holds by then: a commit whose answer was lost is not made twice. Large files that have arrived are not
    sent again.

    Args:
        folder: see `check_folder`.
        repo: its Hub id, made if there is none.
        private: whether a new repository is private; None as the owner has set.
        revision: branch, made if there is none, or a pull request (`refs/pr/1`); the main branch unless given.
        pull_request: propose the commit instead.
        message: of the commit.

    Raises:
        FileNotFoundError, ValueError: as `check_folder`; a name without owner; a repository that is public where
            `private` is asked for, or holds another kind of model.
        PermissionError: no token, or one without the right to write.
        OSError: the Hub cannot be reached or does not answer as it should.
    """
    if pull_request and revision is not None:
        raise ValueError(f"a pull request goes to the main branch: leave out revision {revision!r}")
    if repo.count("/") != 1:
        raise ValueError(f"{repo} is no name on the Hub: say owner/name")
    contents = check_folder(folder)
    if get_token() is None:
        raise PermissionError(f"no token to write to {repo} with: log in (hf auth login) or set HF_TOKEN")
    api, branch = HfApi(library_name="hf_jepa"), revision or "main"
    with plain_errors(repo):
        _prepare_repo(api, Path(folder), repo, private, make=not pull_request)
        if revision is not None and not revision.startswith("refs/"):  # a pull request that is open has a place
            persistent(lambda: api.create_branch(repo, branch=revision, exist_ok=True))
        commit = persistent(
            lambda: api.create_commit(
                repo,
                **_changes(api, Path(folder), contents.files, repo, branch),
                commit_message=message or f"Upload {Path(folder).resolve().name}",
                revision=branch,
                create_pr=pull_request,
            ),
            # The answer may be lost of a commit that was made: the branch shows it, a pull request would be a second.
            statuses=(429,) if pull_request else RETRIED,
        )
    return Published(commit, contents, card_check.check_card(folder))


def check_folder(folder: str | Path) -> Contents:
    """Whether a folder can be published.

    Args:
        folder: a checkpoint of a variant, with `README.md`; may be that of a run, whose own files are left out.

    Returns:
        which of its files are.

    Raises:
        FileNotFoundError: no checkpoint, or no card.
        ConversionError: weights that are damaged or are missing.
        ValueError: the folder of a run that was stopped, values that are not finite, a fingerprint of other weights,
            a card with one of the faults of `faults_that_bar`, a file that does not belong to a checkpoint, or a
            token in one.

    Example:
        >>> import tempfile
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining
        >>> from hf_jepa.registry import VARIANTS
        >>> folder = Path(tempfile.mkdtemp())
        >>> IJepaForPreTraining(IJepaConfig(**VARIANTS["ijepa"].tiny)).save_pretrained(folder)
        >>> _ = (folder / "README.md").write_text("---\\nlicense: mit\\n---\\n# Tiny")
        >>> check_folder(folder).files
        ['README.md', 'config.json', 'model.safetensors']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: name that of a checkpoint")
    require_finished(folder)
    variant = variant_of_folder(folder)
    contents = _contents(folder)
    _require_card(folder)
    _require_no_token(folder, contents.files)
    report, agrees = inspect_checkpoint(folder)
    if not agrees:
        raise ValueError(f"{folder} is not published: {report.splitlines()[-1]}")
    if not (folder / FILE_NAME).is_file():  # with one, they have been loaded
        load_target_encoder(variant, folder)
    return contents


def _contents(folder: Path) -> Contents:
    files, left_out = [], []
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in LEFT_OUT):
            left_out.append(path.name)
        elif path.is_dir() and not path.is_symlink():  # which may lead out of the folder, or round in circles
            below = _contents(path)
            files += [f"{path.name}/{name}" for name in below.files]
            left_out += [f"{path.name}/{name}" for name in below.left_out]
        elif path.is_file() and path.suffix in PUBLISHED:
            files.append(path.name)
        else:
            raise ValueError(f"{path} does not belong to a checkpoint: move it away")
    return Contents(files, left_out)


def _require_card(folder: Path) -> None:
    if faults := card_check.faults_that_bar(folder):
        raise ValueError(f"{folder / card_check.CARD}: {'; '.join(faults)}")


def _require_no_token(folder: Path, files: Sequence[str]) -> None:
    own = (get_token() or "").encode()
    for name in files:
        if name.endswith((".safetensors", ".png", ".jpg")):
            continue
        content = (folder / name).read_bytes()
        if TOKEN.search(content) or (own and own in content):
            raise ValueError(f"{folder / name} holds a token of the Hub: take it out, and revoke it if others saw it")


def _prepare_repo(api: HfApi, folder: Path, repo: str, private: bool | None, make: bool) -> None:
    """Make a repository if there is none; refuse one that is not what was asked for."""
    try:
        info = persistent(lambda: api.model_info(repo))
    except RepositoryNotFoundError:
        if not make:
            raise
        persistent(lambda: api.create_repo(repo, private=private, exist_ok=True))
        return
    if private and not info.private:
        raise ValueError(f"{repo} exists and is public: make it private in its settings, or choose another name")
    if all(file.rfilename != "config.json" for file in info.siblings):
        return
    found = read_json(Path(persistent(lambda: api.hf_hub_download(repo, "config.json"))), "a config")
    wanted = read_json(folder / "config.json", "a config")
    if found.get("model_type") != wanted.get("model_type"):
        raise ValueError(
            f"{repo} exists and holds a model of type {found.get('model_type')!r}, {folder} one of type "
            f"{wanted.get('model_type')!r}: choose another name"
        )


def _changes(api: HfApi, folder: Path, files: Sequence[str], repo: str, branch: str) -> dict:
    """What makes a branch hold the files of a folder, and no other weights; fresh ones for every attempt."""
    info = api.model_info(repo, revision=branch)
    held = [file.rfilename for file in info.siblings]
    stale = [name for name in held if name not in files and any(fnmatch(name, pattern) for pattern in WEIGHTS)]
    added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in files]
    return {
        "operations": [*(CommitOperationDelete(path_in_repo=name) for name in stale), *added],
        "parent_commit": info.sha,
    }


def persistent(call: Callable[[], T], statuses: Sequence[int] = RETRIED) -> T:
    """Try again what failed for a reason that passes."""
    for pause in PAUSES:
        try:
            return call()
        except HfHubHTTPError as error:
            if error.response.status_code not in statuses:
                raise
            reason = f"it answered {error.response.status_code}"
        except httpx2.TransportError as error:
            if 500 not in statuses:
                raise
            reason = f"{type(error).__name__}: {error}"
        logger.warning(f"the Hub is not there ({reason}): trying again in {pause} s")
        time.sleep(pause)
    return call()


@contextmanager
def plain_errors(repo: str) -> Iterator[None]:
    """Say in one line what the Hub refuses, and what to do."""
    try:
        yield
    except HfHubHTTPError as error:
        raise _plain(error, repo) from error
    except httpx2.TransportError as error:
        raise ConnectionError(f"{repo}: the Hub cannot be reached ({type(error).__name__}: {error})") from error
    except RuntimeError as error:  # of one of several uploads, with its reason as cause
        if not isinstance(error.__cause__, HfHubHTTPError | httpx2.TransportError):
            raise
        raise ConnectionError(f"{repo} is as it was: {error} ({error.__cause__}). Run the same again") from error


def _plain(error: HfHubHTTPError, repo: str) -> OSError:
    status, said = error.response.status_code, error.response.headers.get("X-Error-Message", "")
    if isinstance(error, RepositoryNotFoundError) or (status == 401 and said != INVALID_TOKEN):
        return OSError(f"{repo} does not exist, or is private and your token does not open it")
    if isinstance(error, RevisionNotFoundError):
        return OSError(f"{repo} has no such revision ({error.response.url.path})")
    if status == 401:
        return PermissionError(
            f"{repo}: the Hub does not know your token: log in again (hf auth login) or set HF_TOKEN"
        )
    if status == 403:
        return PermissionError(
            f"your token may not write to {repo} ({said}): make one with the role 'write' at "
            "https://huggingface.co/settings/tokens, or propose the change as a pull request"
        )
    if status == 412:
        return OSError(f"{repo} was changed by somebody else meanwhile: look at it, and run the same again")
    return OSError(f"{repo}: the Hub answered {status}: {said or error}")


__all__ = ["Contents", "Published", "check_folder", "persistent", "plain_errors", "publish"]
