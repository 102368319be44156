"""A data file behind an https:// URL, known by its checksum. The only module that opens URLs."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.storage.interface import CHUNK_BYTES

_TIMEOUT_SECONDS = 30
_ATTEMPTS = 3
_NOT_THERE = (404, 410)
_REFUSED = (401, 403)


class _LeavesHttps(OSError):
    """A redirect leads to another scheme than https://."""


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to https:// only: another scheme would read files of this machine or travel in the clear."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: object,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            fp.close()
            raise _LeavesHttps(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


@dataclass(frozen=True)
class WebDataFile:
    """One file; ``known_sha256`` is what the spec says of it, ``field`` where the spec names it."""

    url: str
    known_sha256: str
    field: str

    @property
    def uri(self) -> str:
        return self.url

    def sha256(self) -> str:
        """What the spec says; who reads the content compares it."""
        return self.known_sha256

    def chunks(self) -> Iterator[bytes]:
        """The content; a connection that breaks off is taken up again where it was.

        Raises:
            UserError: there is no such file, access is refused, or at the end: it has another checksum.
            StorageError: the server does not answer.
        """
        place, left, digest = 0, _ATTEMPTS, hashlib.sha256()
        while True:
            try:
                for chunk in self._from(place):
                    place += len(chunk)
                    digest.update(chunk)
                    yield chunk
                return self._check(digest.hexdigest())
            except (OSError, http.client.HTTPException) as error:
                left -= 1
                failure = self._translated(error)
                if isinstance(failure, UserError) or not left:
                    raise failure from error

    def _check(self, found: str) -> None:
        if found != self.known_sha256:
            raise UserError(
                f"{self.url} of {self.field} has the checksum {found}, not {self.known_sha256}",
                f"correct sha256 beside {self.field}, or {self.field} itself",
            )

    def _from(self, place: int) -> Iterator[bytes]:
        headers = {"User-Agent": "finetune-operator"} | ({"Range": f"bytes={place}-"} if place else {})
        request = urllib.request.Request(self.url, headers=headers)
        with urllib.request.build_opener(_HttpsOnly).open(request, timeout=_TIMEOUT_SECONDS) as response:
            skipped = 0
            while chunk := response.read(CHUNK_BYTES):
                if place and response.status != http.HTTPStatus.PARTIAL_CONTENT and skipped < place:
                    # A server without ranges begins anew.
                    cut = min(len(chunk), place - skipped)
                    skipped += cut
                    chunk = chunk[cut:]
                if chunk:
                    yield chunk
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)

    def _translated(self, error: Exception) -> TrainerError:
        if isinstance(error, _LeavesHttps):
            return UserError(
                f"{self.url} of {self.field} redirects to {error}, which is not https://", f"correct {self.field}"
            )
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if error.code in _NOT_THERE:
                return UserError(
                    f"{self.url} of {self.field} does not exist (HTTP {error.code})", f"correct {self.field}"
                )
            if error.code in _REFUSED:
                return UserError(
                    f"access denied to {self.url} of {self.field} (HTTP {error.code})",
                    "use a URL that needs no credentials, or copy the file to an s3:// source",
                )
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return StorageError(
            f"{self.url} of {self.field} cannot be read: {reason}", "check the network policy and that the server runs"
        )
