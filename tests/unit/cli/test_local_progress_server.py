"""The receiver of progress reports takes those that carry its token, and no others."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from finetune_api.outcomes import Stage
from finetune_api.reports import MAX_REPORT_BYTES, ProgressReport, report_path
from finetune_cli.local.progress_server import ProgressServer

REPORT = ProgressReport(uid="u", attempt=1, sequence=3, stage=Stage.TRAIN, message="step 1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ProgressServer]:
    with ProgressServer(tmp_path / "token") as running:
        yield running


def post(server: ProgressServer, body: bytes, token: str | None = None) -> int:
    """Status of one POST, with the server's own token unless another is given."""
    token = Path(server.endpoint.token_file).read_text() if token is None else token
    connection = http.client.HTTPConnection(urlsplit(server.endpoint.url).netloc, timeout=10)
    try:
        connection.request("POST", report_path("default", "tiny"), body, {"Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_report_arrives(server: ProgressServer) -> None:
    assert post(server, REPORT.to_json().encode()) == 204
    assert server.reports.get(timeout=5) == REPORT


@pytest.mark.parametrize("token", ["", "wrong", "ü"])
def test_another_token_is_refused(server: ProgressServer, token: str) -> None:
    assert post(server, REPORT.to_json().encode(), token) == 403
    assert server.reports.empty()


def test_what_is_no_report_is_refused(server: ProgressServer) -> None:
    assert post(server, b'{"uid": "u"}') == 400
    assert post(server, b"x" * (MAX_REPORT_BYTES + 1)) == 413
    assert server.reports.empty()


def test_only_the_user_can_read_the_token(server: ProgressServer) -> None:
    assert Path(server.endpoint.token_file).stat().st_mode & 0o777 == 0o600


def test_the_port_is_free_again_afterwards(tmp_path: Path) -> None:
    with ProgressServer(tmp_path / "token") as running:
        pass

    with pytest.raises(ConnectionRefusedError):
        post(running, REPORT.to_json().encode())
