"""Whether a checkpoint is what it was when it was published: every byte, and what the encoder computes."""

from pathlib import Path

from huggingface_hub import HfApi

from hf_jepa.hub.fingerprint import FILE_NAME
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.hub.publish import persistent, plain_errors


def verify_checkpoint(source: str | Path, revision: str | None = None) -> tuple[str, bool]:
    """Compare the files of a repository with their hashes, and the encoder with its fingerprint.

    Args:
        source: folder, or Hub id, which is downloaded into the cache.
        revision: branch, tag or commit of a Hub id; the main branch unless given.

    Returns:
        a report, and whether all agrees. Weights of files that differ are not loaded.

    Raises:
        FileNotFoundError: neither folder nor Hub id, no checkpoint, or one without fingerprint.
        ConversionError, ValueError: files that cannot be read, or a model of no variant; a revision of a folder.
        OSError: no such repository or revision, no right to read it, or no connection.

    Example:
        >>> import tempfile
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining
        >>> from hf_jepa.hub.fingerprint import write_fingerprint
        >>> from hf_jepa.registry import VARIANTS
        >>> folder = tempfile.mkdtemp()
        >>> model = IJepaForPreTraining(IJepaConfig(**VARIANTS["ijepa"].tiny))
        >>> model.save_pretrained(folder)
        >>> _ = write_fingerprint(model.target_encoder, folder)
        >>> report, agrees = verify_checkpoint(folder)
        >>> agrees, report.splitlines()[-1][:18]
        (True, 'fingerprint agrees')
    """
    folder, lines = Path(source), []
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"{source} is a folder, which has no revision {revision!r}: leave it out")
    else:
        folder, lines, intact = _downloaded(str(source), revision)
        if not intact:
            return "\n".join(lines), False
    report, agrees = inspect_checkpoint(folder)
    if agrees and not (folder / FILE_NAME).is_file():
        raise FileNotFoundError(f"{source} has no {FILE_NAME} to compare the weights with; hf-jepa inspect shows them")
    return "\n".join([*lines, report]), agrees


def _downloaded(repo: str, revision: str | None) -> tuple[Path, list[str], bool]:
    """Where the files of a repository lie, what is said of them, and whether they have the hashes that the Hub names.

    Downloads are compared with the size only, so a cache or a server may hold other bytes.
    """
    if repo.count("/") != 1 or repo.startswith(("/", ".", "~")) or repo.endswith("/"):
        raise FileNotFoundError(f"{repo} is neither a folder nor the id of a repository (owner/name)")
    api = HfApi(library_name="hf_jepa")
    with plain_errors(repo):
        commit = persistent(lambda: api.model_info(repo, revision=revision)).sha
        folder = Path(persistent(lambda: api.snapshot_download(repo, revision=commit)))
        found = persistent(lambda: api.verify_repo_checksums(repo, revision=commit))
    lines = [f"{repo}, commit {commit}"]
    for file in found.mismatches:
        kind = file["algorithm"]
        lines.append(f"  {file['path']} has the {kind} {file['actual']}, the Hub says {file['expected']}")
    lines += [f"  {path} is missing" for path in found.missing_paths]
    if found.mismatches or found.missing_paths:
        lines.append(f"the files are not those of the commit: remove {folder} and try again, or do not use them")
        return folder, lines, False
    lines.append(f"all {found.checked_count} files have the hashes that the Hub names")
    return folder, lines, True


__all__ = ["verify_checkpoint"]
