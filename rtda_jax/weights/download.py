"""Downloads a file over HTTPS: resumes an interrupted download, verifies it, then renames it.

A file is written as `NAME.partial`, under a lock that two jobs share, and gets its final name only
if its SHA-256 is right. If the connection breaks, the partial file is kept, so that the next
attempt or the next command continues it. If its content is wrong, it is deleted.
"""

import dataclasses
import http.client
import os
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import IO

from rtda_jax.run.files import sha256, wait_for_lock
from rtda_jax.run.log import Progress

_CHUNK = 2**20
_LARGEST = 2**30  # bytes; the largest published trunk has half as many


class DownloadError(RuntimeError):
    """A download that failed; the message has the address and the reason."""


class _BrokenError(RuntimeError):
    """The connection was refused, or ended before the file did."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """The patience of a download: number of attempts, seconds for an answer, seconds in between."""

    attempts: int = 10
    timeout: float = 30.0
    pause: float = 1.0


PATIENCE = Patience()


def agrees(path: pathlib.Path, digest: str) -> bool:
    """Returns whether the SHA-256 of a file begins with these hexadecimal digits."""
    return sha256(path).startswith(digest)


def fetch(url: str, path: pathlib.Path, *, digest: str, patience: Patience = PATIENCE) -> None:
    """Downloads a file to path, unless it exists and is intact.

    Args:
      url: an https address, or http for the user's own mirror.
      path: the path of the complete file, which appears atomically; its folder is created.
      digest: the hexadecimal digits with which the SHA-256 of the file begins.
      patience: attempts and timeouts.

    Raises:
      DownloadError: the folder cannot be written, the server cannot be reached, redirects from
        https to an unprotected address, stops before the end, or sends another file.
    """
    if urllib.parse.urlsplit(url).scheme not in ("https", "http"):
        raise DownloadError(f"{url} is not an address of the web")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        message = f"waiting for another process that downloads {path.name}"
        with wait_for_lock(path.with_name(path.name + ".lock"), message):
            if not (path.is_file() and agrees(path, digest)):
                _fetch(url, path, digest, patience)
    except OSError as error:
        raise DownloadError(
            f"{error.filename or path} cannot be written ({error.strerror})"
        ) from error


def _fetch(url: str, path: pathlib.Path, digest: str, patience: Patience) -> None:
    partial = path.with_name(path.name + ".partial")
    for attempt in range(1, patience.attempts + 1):
        begin = _size(partial)
        try:
            _continue(url, partial, timeout=patience.timeout)
        except _BrokenError as error:
            size = _size(partial)
            if size <= begin or attempt == patience.attempts:
                later = f"; the next attempt continues after {size} bytes" if size else ""
                raise DownloadError(f"{url}: {error}{later}") from error
            time.sleep(patience.pause)
            continue
        if agrees(partial, digest):
            partial.replace(path)
            return
        partial.unlink()
        if not begin:  # else an earlier attempt may have left wrong bytes: start again
            break
    raise DownloadError(f"{url}: the SHA-256 of what the server sends does not begin with {digest}")


def _continue(url: str, partial: pathlib.Path, *, timeout: float) -> None:
    """Completes the partial file, or rewrites it if the server starts from the beginning."""
    begin = _size(partial)
    request = urllib.request.Request(url, headers={"User-Agent": "rtda_jax"})
    if begin:
        request.add_header("Range", f"bytes={begin}-")
    try:
        opener = urllib.request.build_opener(_StayProtected)
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing: the checksum decides
        raise _BrokenError(f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(str(getattr(error, "reason", error))) from error
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            begin = 0
        elif _first_byte(response) != begin:
            partial.unlink()
            raise _BrokenError("the server continues at another place than it was asked to")
        length = response.headers.get("Content-Length", "")
        total = begin + int(length) if length.isdecimal() else None
        with partial.open("r+b" if begin else "wb") as file:
            file.seek(begin)
            try:
                _copy(response, file, total=total, what=f"downloading {partial.stem}")
            finally:
                os.fsync(file.fileno())


def _copy(
    response: http.client.HTTPResponse, file: IO[bytes], *, total: int | None, what: str
) -> None:
    """Appends the rest of a response to a file, and shows the progress on stderr."""
    progress = Progress(what, (total or 0) >> 20, file.tell() >> 20, unit="MB")
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenError(f"the connection broke ({error})") from error
        if not chunk:
            break
        file.write(chunk)
        if file.tell() > _LARGEST:
            file.truncate(0)
            raise _BrokenError(f"the server sends more than {_LARGEST} bytes")
        progress.add(len(chunk) >> 20)
    progress.end()
    if total is not None and file.tell() < total:
        raise _BrokenError(f"the connection ended after {file.tell()} of {total} bytes")


def _first_byte(response: http.client.HTTPResponse) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _StayProtected(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none that leaves https."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
