"""Progress reports: the newest arrives, and nothing that happens to it disturbs training."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finetune_api.outcomes import Stage, StageOutcome
from finetune_api.plan import JobReference, ProgressEndpoint
from finetune_api.progress import Progress
from finetune_api.results import Checkpoint
from finetune_trainer.progress import KeepingReporter, ProgressReporter, SilentReporter, endpoint_sender
from support.training_runs import free_port

JOB = JobReference(namespace="team", name="tiny", uid="7d1c")
PATH = "/v1/namespaces/team/finetunejobs/tiny/progress"


def progress(step: int) -> Progress:
    return Progress(step=step, total_steps=100, percent=step, epoch="1", updated=datetime.now(UTC))


@dataclass
class Inbox:
    """Takes bodies; refuses the first ``refusals`` of them."""

    refusals: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)

    def send(self, body: bytes) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError("away")
        self.bodies.append(json.loads(body))
        self.arrived.set()


def test_first_and_last_report_arrive() -> None:
    inbox = Inbox()
    reporter = ProgressReporter(inbox.send, "7d1c", attempt=2, interval=60)
    reporter.report(Stage.TRAIN, "loading the model")
    assert inbox.arrived.wait(20)
    for step in range(1, 50):
        reporter.report(Stage.TRAIN, progress=progress(step))
    reporter.close(20)
    assert len(inbox.bodies) == 2
    assert inbox.bodies[0] == {
        "uid": "7d1c",
        "attempt": 2,
        "sequence": 1,
        "stage": "train",
        "message": "loading the model",
    }
    assert inbox.bodies[1]["progress"]["step"] == 49
    assert inbox.bodies[1]["sequence"] == 50


def test_the_newest_report_waits_while_the_operator_is_away() -> None:
    inbox = Inbox(refusals=3)
    reporter = ProgressReporter(inbox.send, "7d1c", attempt=1, interval=0.01)
    for step in (1, 2, 3):
        reporter.report(Stage.TRAIN, progress=progress(step))
    assert inbox.arrived.wait(20)
    reporter.close(20)
    assert inbox.refusals == 0
    assert inbox.bodies[-1]["progress"]["step"] == 3


def test_a_message_repeats_the_last_progress() -> None:
    inbox = Inbox()
    reporter = ProgressReporter(inbox.send, "7d1c", attempt=1, interval=0.01)
    reporter.report(Stage.TRAIN, progress=progress(7))
    reporter.report(Stage.EVALUATE, "e" * 500)
    reporter.close(20)
    last = inbox.bodies[-1]
    assert (last["stage"], last["progress"]["step"], len(last["message"])) == ("evaluate", 7, 256)


def test_the_first_step_is_told_in_all_later_reports() -> None:
    inbox = Inbox()
    reporter = ProgressReporter(inbox.send, "7d1c", attempt=1, interval=0.01)
    before = datetime.now(UTC)
    reporter.stepping()
    reporter.report(Stage.TRAIN, progress=progress(1))
    reporter.report(Stage.EVALUATE, "evaluating")
    reporter.close(20)
    began = {body["firstStep"] for body in inbox.bodies}
    assert len(began) == 1
    assert before <= datetime.fromisoformat(began.pop()) <= datetime.now(UTC)


def test_an_operator_that_never_answers_costs_a_bounded_end() -> None:
    inbox = Inbox(refusals=10**9)
    reporter = ProgressReporter(inbox.send, "7d1c", attempt=1, interval=0.01)
    reporter.report(Stage.TRAIN)
    reporter.close(0.3)
    assert inbox.bodies == []
    assert inbox.refusals < 10**9


def test_the_last_progress_is_kept_with_a_checkpoint_and_at_the_end(tmp_path: Path) -> None:
    """An operator that could check no report finds it in the pod's last words."""
    file, checkpoint = (
        tmp_path / "saved",
        Checkpoint(step=2, time=datetime.now(UTC), uri="s3://bucket/checkpoint", world_size=1),
    )
    reporter = KeepingReporter(SilentReporter(), file)
    reporter.report(Stage.TRAIN, "loading")
    reporter.close()
    assert not file.exists(), "nothing is known yet"
    reporter.report(Stage.TRAIN, progress=progress(2))
    reporter.committed(checkpoint)
    reporter.report(Stage.TRAIN, progress=progress(3))
    assert _saved(file) == (2, checkpoint)
    reporter.report(Stage.PUBLISH, "published")
    reporter.close()
    assert _saved(file) == (3, checkpoint)


class ClosedReporter(SilentReporter):
    closed = False

    def close(self, timeout: float = 5.0) -> None:
        self.closed = True


def test_a_full_disk_does_not_keep_a_pod_from_its_end(tmp_path: Path) -> None:
    inner, file = ClosedReporter(), tmp_path / "no folder" / "saved"
    reporter = KeepingReporter(inner, file)
    reporter.report(Stage.TRAIN, progress=progress(2))
    reporter.close()
    assert not file.exists()
    assert inner.closed, "what it told the operator is still sent"


def _saved(file: Path) -> tuple[int | None, Checkpoint | None]:
    kept = StageOutcome.model_validate_json(file.read_bytes())
    return (kept.progress.step if kept.progress else None), kept.checkpoint


def test_silence_is_a_reporter_too() -> None:
    reporter = SilentReporter()
    assert [reporter.report(Stage.TRAIN), reporter.close()] == [None, None]


class Operator(ThreadingHTTPServer):
    """Keeps path, authorization and body of each POST."""

    status = 204

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.requests: list[tuple[str, str | None, bytes]] = []


class Answer(BaseHTTPRequestHandler):
    server: Operator

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def serving(operator: Operator) -> Iterator[int]:
    thread = threading.Thread(target=operator.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield operator.server_address[1]
    finally:
        operator.shutdown()
        thread.join()
        operator.server_close()


def endpoint(url: str, token: Path, authority: str = "") -> ProgressEndpoint:
    return ProgressEndpoint(url=url, certificate_authority=authority, token_file=str(token))


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("first\n")
    return file


def test_posts_with_the_token_of_the_moment(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    operator = Operator()
    with serving(operator) as port:
        send = endpoint_sender(endpoint(f"http://127.0.0.1:{port}/", token), JOB)
        send(b"1")
        token.write_text("second")
        send(b"2")
    assert operator.requests == [(PATH, "Bearer first", b"1"), (PATH, "Bearer second", b"2")]


def test_an_answer_that_is_no_success_is_an_error(token: Path) -> None:
    operator = Operator()
    operator.status = 403
    with serving(operator) as port, pytest.raises(OSError, match="answered 403 Forbidden"):
        endpoint_sender(endpoint(f"http://127.0.0.1:{port}", token), JOB)(b"1")
    assert len(operator.requests) == 1


@pytest.mark.parametrize("host", ["operator.example.com", "127.evil.example.com", "localhost.example.com"])
def test_the_token_never_leaves_in_clear(host: str, token: Path) -> None:
    send = endpoint_sender(endpoint(f"http://{host}:80", token), JOB)
    with pytest.raises(OSError, match=f"refused to send the token to {host}:80 without TLS"):
        send(b"1")


def test_nobody_there(token: Path) -> None:
    with pytest.raises(ConnectionRefusedError):
        endpoint_sender(endpoint(f"http://localhost:{free_port()}", token), JOB)(b"1")


def test_https_trusts_the_plans_authority_only(token: Path, tmp_path: Path) -> None:
    certificate, key = self_signed("localhost")
    (tmp_path / "server.pem").write_text(certificate + key)
    operator = Operator()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    operator.socket = context.wrap_socket(operator.socket, server_side=True)
    with serving(operator) as port:
        endpoint_sender(endpoint(f"https://localhost:{port}", token, certificate), JOB)(b"1")
        stranger, _ = self_signed("localhost")
        with pytest.raises(ssl.SSLCertVerificationError):
            endpoint_sender(endpoint(f"https://localhost:{port}", token, stranger), JOB)(b"2")
    assert operator.requests == [(PATH, "Bearer first", b"1")]


def self_signed(host: str) -> tuple[str, str]:
    """Certificate and key in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()
