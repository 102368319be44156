"""A proxy before an S3-compatible store that breaks requests by a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

from support.fault_proxy import UPSTREAM_SECONDS, Fault, Faults, FaultyHandler, Refusal, serving


def _refusal(status: int, code: str, *headers: tuple[str, str]) -> Refusal:
    content = f"<Error><Code>{code}</Code><Message>as asked</Message></Error>".encode()
    return Refusal(status, content, (("Content-Type", "application/xml"), *headers))


@contextmanager
def faulty(endpoint: str, faults: Faults) -> Iterator[str]:
    """Runs a proxy before a store and gives its endpoint."""
    target = urlsplit(endpoint)
    assert target.hostname

    class Handler(FaultyHandler):
        refusals = {  # noqa: RUF012 - not changed
            Fault.INTERNAL_ERROR: _refusal(500, "InternalError"),
            Fault.SLOW_DOWN: _refusal(503, "SlowDown"),
            Fault.SLOW_DOWN_FOR: _refusal(503, "SlowDown", ("Retry-After", "1")),
        }

        def connect(self) -> HTTPConnection:
            return HTTPConnection(str(target.hostname), target.port, timeout=UPSTREAM_SECONDS)

    Handler.faults = faults
    with serving(Handler) as address:
        yield address
