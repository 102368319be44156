"""Data on a hub, through the real client, and behind https:// with a checksum."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download

from finetune_api.plan import HubPlace, RunPlan
from finetune_api.results import Prepared
from finetune_api.uris import parse_destination
from finetune_sandbox.pki import new_authority
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.prepare import prepare
from support.corpus import GOOD, lines, parquet
from support.hub_server import Hub, hub_server
from support.run_plans import Place, chat

DATASET = "datasets/org/talks"
STRUCTS = GOOD["messages"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as running:
        running.repositories[DATASET] = {
            "README.md": b"# Talks",
            "data/train-0.parquet": parquet({"messages": STRUCTS}, {"messages": STRUCTS}),
            "data/test-0.parquet": parquet({"messages": STRUCTS}),
            "more/rows.jsonl": lines(GOOD, chat("a", "b"), chat("c", "d")),
        }
        yield running


def hub_plan(
    place: Place, hub: Hub, *, token: bool = False, access: dict[str, Any] | None = None, **source: Any
) -> RunPlan:
    dataset = {
        "train": [{"source": "hf://org/talks", **source}],
        "huggingFace": access or {"endpointURL": hub.endpoint},
    }
    plan = place.plan(dataset=dataset)
    return plan.model_copy(update={"hubs": {"data": HubPlace(token_variable="DATA_HF_TOKEN" if token else None)}})


def refused(plan: RunPlan, environment: dict[str, str]) -> UserError:
    with pytest.raises(UserError) as error:
        prepare(plan, environment)
    return error.value


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ({"source": "hf://org/talks/more/rows.jsonl"}, 3),
        ({"source": "hf://org/talks/more"}, 3),
        ({"files": "data/train-*"}, 2),
        ({"source": "hf://org/talks/data"}, 3),
        ({"source": "hf://org/talks/more", "revision": "c" * 40}, 3),
    ],
    ids=["file", "folder", "pattern", "Parquet folder", "commit"],
)
def test_rows_of_a_dataset_repository(folder_place: Place, hub: Hub, source: dict[str, Any], rows: int) -> None:
    prepared = prepare(hub_plan(folder_place, hub, **source), folder_place.environment)
    assert prepared.train.rows == rows


def test_the_run_is_that_of_the_same_files_elsewhere(folder_place: Place, hub: Hub) -> None:
    folder_place.put("copy/rows.jsonl", hub.repositories[DATASET]["more/rows.jsonl"])
    stored = folder_place.plan(dataset={"train": [{"source": "s3://bucket/copy"}]})
    on_hub = hub_plan(folder_place, hub, source="hf://org/talks/more")
    runs = [prepare(plan, folder_place.environment).run_id for plan in (stored, on_hub)]
    assert runs[0] == runs[1]


def test_the_report_tells_the_commit_and_nothing_is_left_on_the_disk(folder_place: Place, hub: Hub) -> None:
    prepared = prepare(hub_plan(folder_place, hub, files="*.parquet"), folder_place.environment)
    assert prepared.data is not None
    page = folder_place.store.read(parse_destination(prepared.data.report)).decode()
    assert "c" * 40 in page
    left = [path.name for path in folder_place.workspace.rglob("*") if path.suffix in (".parquet", ".jsonl")]
    assert left == []


def test_a_cache_claim_is_enough_without_a_network(folder_place: Place, hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "hf-home"
    snapshot_download("org/talks", repo_type="dataset", endpoint=hub.endpoint, cache_dir=home / "hub")
    hub.requests.clear()
    access = {"offline": True, "cacheClaim": "cache"}
    plan = hub_plan(folder_place, hub, access=access, files="more/*")
    plan = plan.model_copy(update={"hubs": {"data": HubPlace(cache=str(home))}})
    assert prepare(plan, folder_place.environment).train.rows == 3
    assert hub.requests == []
    shutil.rmtree(home)
    error = refused(plan, folder_place.environment)
    assert error.message == (
        "hf://org/talks at revision 'main' is not in the cache claim, and huggingFace.offline is true"
    )
    assert "spec.dataset.huggingFace.cacheClaim" in error.remedy


def test_a_private_dataset_needs_its_token(folder_place: Place, hub: Hub) -> None:
    hub.tokens[DATASET] = "secret-token-of-the-data"
    environment = folder_place.environment
    error = refused(hub_plan(folder_place, hub), environment)
    assert error.message == (
        f"hf://org/talks of spec.dataset.train[0].source does not exist at {hub.endpoint}, or is private"
    )
    assert "spec.dataset.huggingFace.tokenSecretRef" in error.remedy
    plan = hub_plan(folder_place, hub, token=True, source="hf://org/talks/more")
    assert prepare(plan, environment | {"DATA_HF_TOKEN": "secret-token-of-the-data"}).train.rows == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"revision": "v2"}, "hf://org/talks has no revision 'v2'"),
        (
            {"source": "hf://org/talks/nothing"},
            "hf://org/talks/nothing of spec.dataset.train[0].source does not exist: there is no such file, and no "
            ".jsonl or .parquet file below it",
        ),
        (
            {},
            "hf://org/talks of spec.dataset.train[0].source has files of more than one kind: data/test-0.parquet and "
            "more/rows.jsonl",
        ),
    ],
    ids=["revision", "path", "mixture"],
)
def test_what_a_repository_does_not_have(folder_place: Place, hub: Hub, source: dict[str, Any], message: str) -> None:
    assert refused(hub_plan(folder_place, hub, **source), folder_place.environment).message == message


def test_a_hub_that_fails_is_tried_again_later(folder_place: Place, hub: Hub) -> None:
    hub.failing = True
    with pytest.raises(StorageError) as failed:
        prepare(hub_plan(folder_place, hub), folder_place.environment)
    assert "spec.dataset.huggingFace.endpointURL" in failed.value.remedy


# https://


class _Handler(BaseHTTPRequestHandler):
    """Serves the server's ``files``; the first answers break off after some bytes, as often as ``breaks`` says."""

    server: _Web

    def do_GET(self) -> None:
        web = self.server
        web.asked.append(self.headers.get("Range"))
        if self.path == "/moved.jsonl":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/rows.jsonl")
            self.end_headers()
            return
        content = web.files.get(self.path)
        if content is None:
            self.send_error(403 if self.path == "/secret.jsonl" else 404)
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-")) if web.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if web.breaks:
            web.breaks -= 1
            end = start + 10
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: Any) -> None:
        """Tests print nothing."""


class _Web(HTTPServer):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.files: dict[str, bytes] = {}
        self.asked: list[str | None] = []
        self.breaks = 0
        self.ranges = True

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.server_port}"


@contextmanager
def _serving(folder: Path) -> Iterator[_Web]:
    authority = new_authority("the test's authority")
    credential = authority.server("web", ("127.0.0.1",))
    (folder / "ca.pem").write_bytes(authority.credential.certificate)
    (folder / "web.pem").write_bytes(credential.certificate + credential.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "web.pem")
    with _Web(context) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            yield web
        finally:
            web.shutdown()
            thread.join()


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Web]:
    with _serving(tmp_path) as running:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        running.files["/rows.jsonl"] = lines(GOOD, chat("a", "b"))
        yield running


def web_plan(place: Place, web: _Web, name: str = "rows.jsonl", sha256: str | None = None) -> RunPlan:
    known = sha256 or hashlib.sha256(web.files.get(f"/{name}", b"")).hexdigest()
    return place.plan(dataset={"train": [{"source": f"{web.endpoint}/{name}", "sha256": known}]})


def test_a_file_with_a_checksum(folder_place: Place, web: _Web) -> None:
    prepared: Prepared = prepare(web_plan(folder_place, web), folder_place.environment)
    assert prepared.train.rows == 2
    assert len(web.asked) == 1


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without ranges"])
def test_a_connection_that_breaks_off_is_taken_up_again(folder_place: Place, web: _Web, ranges: bool) -> None:
    web.breaks, web.ranges = 2, ranges
    assert prepare(web_plan(folder_place, web), folder_place.environment).train.rows == 2
    assert web.asked == [None, "bytes=10-", "bytes=20-" if ranges else "bytes=10-"]


def test_a_connection_that_always_breaks_off_is_a_failure_of_storage(folder_place: Place, web: _Web) -> None:
    web.breaks, web.ranges = 99, False
    with pytest.raises(StorageError) as failed:
        prepare(web_plan(folder_place, web), folder_place.environment)
    assert failed.value.message.startswith(f"{web.endpoint}/rows.jsonl of spec.dataset.train[0].source cannot be read")


def test_another_content_is_refused(folder_place: Place, web: _Web) -> None:
    found = hashlib.sha256(web.files["/rows.jsonl"]).hexdigest()
    error = refused(web_plan(folder_place, web, sha256="0" * 64), folder_place.environment)
    assert error.message == (
        f"{web.endpoint}/rows.jsonl of spec.dataset.train[0].source has the checksum {found}, not {'0' * 64}"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [("nothing.jsonl", "does not exist (HTTP 404)"), ("secret.jsonl", "access denied to ")],
)
def test_a_file_that_cannot_be_had(folder_place: Place, web: _Web, name: str, words: str) -> None:
    assert words in refused(web_plan(folder_place, web, name), folder_place.environment).message


def test_a_redirect_into_the_clear_is_not_followed(folder_place: Place, web: _Web) -> None:
    error = refused(web_plan(folder_place, web, "moved.jsonl"), folder_place.environment)
    assert error.message.endswith("redirects to http://127.0.0.1:9/rows.jsonl, which is not https://")
