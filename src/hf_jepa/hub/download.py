"""Official files from the network: resumed when interrupted, whole or absent, and never with anybody's token."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from filelock import FileLock
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import get_session

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.files import read_json
from hf_jepa.hub.limits import require_plain_name


MAX_FILE_BYTES = 50 * 10**9  # the largest official file has a third of it
_TAGS = ("ETag", "Last-Modified")


def is_url(source: str) -> bool:
    """Whether a source is an address of the network rather than a path.

    Example:
        >>> is_url("https://dl.fbaipublicfiles.com/vjepa2/vitl.pt"), is_url("runs/vitl.pt")
        (True, False)
    """
    return source.lower().startswith(("http://", "https://"))


def shown(url: str) -> str:
    """An address without what may be secret in it: user, password and query.

    Example:
        >>> shown("https://user:password@example.org/a/vitl.pt?token=secret")
        'https://example.org/a/vitl.pt'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Fetched(NamedTuple):
    """A file that was fetched, and its SHA-256 in hexadecimal."""

    path: Path
    sha256: str


def download(url: str, cache: str | Path | None = None, max_bytes: int = MAX_FILE_BYTES) -> Fetched:
    """The file of an address, from the cache where it was fetched before.

    An interrupted download goes on where it stopped, if the file is still the same there.

    Args:
        url: http or https; no token of the Hub is sent.
        cache: folder; `hf_jepa` in the home of Hugging Face when unset.
        max_bytes: what a file may have.

    Returns:
        its path, whose name is that of the address, and its SHA-256.

    Raises:
        ConversionError: the address names no file, the file is too large, or the one in the cache was changed.
        OSError: the server refuses, the connection is lost, or the disk is too small.
    """
    name = require_plain_name(unquote(urlsplit(url).path).rpartition("/")[2] or None, shown(url))
    root = Path(constants.HF_HOME) / "hf_jepa" if cache is None else Path(cache)
    folder = root / hashlib.sha256(url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    final, record = folder / name, folder / f"{name}.record.json"
    with FileLock(folder / f"{name}.lock"):
        if final.is_file() and record.is_file():
            found = sha256_of(final)
            if found != read_json(record, "the record of a download").get("sha256"):
                raise ConversionError(f"{final} is not what was downloaded: remove it, to fetch it again")
            return Fetched(final, found)
        try:
            _fetch(url, folder / f"{name}.partial", max_bytes)
        except HfHubHTTPError as error:
            raise OSError(f"{shown(url)} cannot be fetched: the server says {error.response.status_code}") from None
        except OSError as error:
            raise OSError(f"{shown(url)} cannot be fetched: {_without(url, error)}") from None
        except Exception as error:
            if not type(error).__module__.startswith("http"):  # of the library that asks
                raise
            raise OSError(f"{shown(url)} cannot be fetched: {type(error).__name__}, {_without(url, error)}") from None
        found = sha256_of(folder / f"{name}.partial")
        record.write_text(json.dumps({"url": shown(url), "sha256": found}), encoding="utf-8")
        (folder / f"{name}.partial").rename(final)
    return Fetched(final, found)


def _fetch(url: str, partial: Path, max_bytes: int) -> None:
    """Get the rest of a file, or all of it when it is another than the one that was begun."""
    answer = get_session().head(url, follow_redirects=True, headers={"Accept-Encoding": "identity"})
    if answer.status_code >= 400:
        raise OSError(f"the server says {answer.status_code}")
    size = answer.headers.get("Content-Length", "")
    if not size.isdigit():
        raise OSError("the server does not say how large it is; fetch it by other means and give its path")
    if int(size) > max_bytes:
        raise ConversionError(
            f"{shown(url)} has {int(size):,} bytes, more than the {max_bytes:,} that are fetched; if that is right, "
            "fetch it by other means and give its path"
        )
    tag, begun = {key: answer.headers.get(key) for key in _TAGS} | {"size": int(size)}, partial.with_suffix(".begun")
    if not begun.is_file() or not partial.is_file() or read_json(begun, "a record") != tag:
        partial.unlink(missing_ok=True)
        begun.write_text(json.dumps(tag), encoding="utf-8")
    there = partial.stat().st_size if partial.is_file() else 0
    if there > int(size):
        partial.unlink()
        there = 0
    if shutil.disk_usage(partial.parent).free < int(size) - there:
        raise OSError(f"it has {int(size):,} bytes, and the disk of {partial.parent} has no room for them")
    with partial.open("ab") as file:
        http_get(
            url, _Limited(file, int(size)), resume_size=there, expected_size=int(size), displayed_filename=partial.stem
        )
    begun.unlink()


class _Limited:
    """A file that takes no more bytes than were announced."""

    def __init__(self, file, size: int):
        self.file, self.size = file, size

    def write(self, content: bytes) -> int:
        if self.file.tell() + len(content) > self.size:
            raise OSError(f"the server sends more than the {self.size:,} bytes that it announced")
        return self.file.write(content)

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def _without(url: str, error: Exception) -> str:
    parts = urlsplit(url)
    text = str(error).replace(url, shown(url))
    for secret in (parts.query, parts.netloc.rpartition("@")[0]):
        text = text.replace(secret, "...") if secret else text
    return text


__all__ = ["Fetched", "download", "is_url", "sha256_of", "shown"]
