"""The CA of the progress server: certificates that a real handshake accepts, kept in a Secret."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector, web
from cryptography import x509

from finetune_operator.errors import AlreadyExists, KubeError
from finetune_operator.progress_server import serve
from finetune_operator.settings import Address
from finetune_operator.tls import (
    SECRET_NAME,
    Authority,
    load_authority,
    new_authority,
    server_certificate,
    server_context,
)
from support.fake_kube import FakeKube, Object


def _client_context(authority: Authority) -> ssl.SSLContext:
    """Trusts this CA alone, as strictly as Python 3.13 does by default."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


async def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    """What the server says after a handshake on loopback with a client that asked for ``host``."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=server)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=host)
        text = (await reader.read()).decode()
        writer.close()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()
        return text


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "operator.example", "finetune-operator.finetune-system.svc"])
async def test_server_is_trusted_by_the_name_it_was_made_for(authority: Authority, host: str) -> None:
    server = server_context(*server_certificate(authority, host))
    assert await _handshake(server, _client_context(authority), host) == "hello"


@pytest.mark.parametrize("host", ["127.0.0.2", "other.example"])
async def test_server_is_not_trusted_by_another_name(authority: Authority, host: str) -> None:
    server = server_context(*server_certificate(authority, "operator.example"))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        await _handshake(server, _client_context(authority), host)


async def test_server_of_another_ca_is_not_trusted(authority: Authority) -> None:
    server = server_context(*server_certificate(new_authority(), "operator.example"))
    with pytest.raises(ssl.SSLCertVerificationError):
        await _handshake(server, _client_context(authority), "operator.example")


async def test_old_protocols_are_refused(authority: Authority) -> None:
    server = server_context(*server_certificate(authority, "operator.example"))
    assert server.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_certificate_of_a_restarted_operator_is_trusted_by_running_pods(authority: Authority) -> None:
    first, second = (server_certificate(authority, "operator.example")[0] for _ in "12")
    assert first != second
    server = server_context(*server_certificate(authority, "operator.example"))
    assert await _handshake(server, _client_context(authority), "operator.example") == "hello"


def test_server_certificate_signs_nothing(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(server_certificate(authority, "operator.example")[0])
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    assert certificate.issuer == issuer.subject
    assert issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_no_key_is_left_on_the_disk(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server_context(*server_certificate(authority, "operator.example"))
    assert list(tmp_path.iterdir()) == []


async def test_authority_is_made_once_and_kept() -> None:
    kube = FakeKube()
    first = await load_authority(kube, "finetune-system")
    assert await load_authority(kube, "finetune-system") == first
    assert kube.writes == [f"create Secret {SECRET_NAME}"]
    (secret,) = kube.of("secrets")
    assert secret["type"] == "kubernetes.io/tls"
    assert base64.b64decode(secret["data"]["tls.crt"]) == first.certificate


class _Raced(FakeKube):
    """Another operator writes the Secret between the look and the creation."""

    theirs = new_authority()

    async def create(self, manifest: Object, manager: str) -> Object:
        mine = dict(manifest)
        mine["data"] = {
            "tls.crt": base64.b64encode(self.theirs.certificate).decode(),
            "tls.key": base64.b64encode(self.theirs.key).decode(),
        }
        self.put(mine)
        raise AlreadyExists(409, "AlreadyExists", SECRET_NAME)


async def test_authority_that_another_made_meanwhile_is_used() -> None:
    kube = _Raced()
    assert await load_authority(kube, "finetune-system") == kube.theirs


async def test_refused_secret_is_told() -> None:
    kube = FakeKube()
    kube.refuse = [KubeError(403, "Forbidden", "no secrets for you")]
    with pytest.raises(KubeError, match="no secrets for you"):
        await load_authority(kube, "finetune-system")


async def test_https_server_answers(authority: Authority) -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    context = server_context(*server_certificate(authority, "127.0.0.1"))
    runner = await serve(app, Address("127.0.0.1", 0), context)
    try:
        port = runner.addresses[0][1]
        connector = TCPConnector(ssl=_client_context(authority))
        async with ClientSession(connector=connector) as session, session.get(f"https://127.0.0.1:{port}/") as answer:
            assert await answer.text() == "hello"
    finally:
        await runner.cleanup()
