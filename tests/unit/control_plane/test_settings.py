"""The operator's command line."""

from __future__ import annotations

import pytest

from finetune_operator.errors import ConfigurationError
from finetune_operator.main import main
from finetune_operator.network import JobNetwork
from finetune_operator.settings import Address, Settings, parse_address, parse_settings

NEEDED = ["--trainer-image", "trainer:1", "--progress-url", "https://operator.example:8443"]


def test_defaults() -> None:
    assert parse_settings(NEEDED) == Settings(
        namespace="finetune-system",
        watch_namespaces=(),
        trainer_image="trainer:1",
        progress_listen=Address("0.0.0.0", 8443),
        progress_url="https://operator.example:8443",
        health_listen=None,
        secret_grace_seconds=30.0,
        gang_grace_seconds=300.0,
        resync_seconds=60.0,
        log_format="plain",
        job_network=JobNetwork(),
    )


def test_everything_can_be_set() -> None:
    options = ["--namespace", "ops", "--watch-namespace", "a", "--watch-namespace", "b", "--log-format", "json"]
    options += ["--progress-listen", "[::1]:9000", "--health-listen", "127.0.0.1:8080"]
    options += ["--secret-grace-seconds", "5", "--resync-seconds", "2.5", "--gang-grace-seconds", "60"]
    options += ["--job-network-policy", '{"enabled": false}']
    settings = parse_settings([*NEEDED, *options])
    assert settings.namespace == "ops"
    assert settings.watch_namespaces == ("a", "b")
    assert (settings.progress_listen, settings.health_listen) == (Address("::1", 9000), Address("127.0.0.1", 8080))
    assert (settings.secret_grace_seconds, settings.resync_seconds) == (5.0, 2.5)
    assert settings.gang_grace_seconds == 60.0
    assert settings.log_format == "json"
    assert not settings.job_network.enabled


def test_trailing_slash_of_the_url_is_dropped() -> None:
    assert parse_settings([*NEEDED[:3], "https://operator.example/"]).progress_url == "https://operator.example"


@pytest.mark.parametrize(
    ("text", "address"),
    [("0.0.0.0:8443", ("0.0.0.0", 8443)), ("[::]:1", ("::", 1)), ("localhost:65535", ("localhost", 65535))],
)
def test_address(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == Address(*address)


@pytest.mark.parametrize("text", ["", "8443", ":8443", "host", "host:", "host:x", "host:0", "host:65536", "host:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not an address: use host:port, such as 0\.0\.0\.0:8443"):
        parse_address(text)


@pytest.mark.parametrize("url", ["http://operator.example", "operator.example", "https://", ""])
def test_progress_url_must_be_https(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--progress-url .* must be an https URL with a host"):
        parse_settings([*NEEDED[:3], url])


def test_settings_that_cannot_work_end_the_operator_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEEDED[:3], "http://plain.example"]) == 2
    assert capsys.readouterr().err.startswith("finetune-operator: --progress-url")


@pytest.mark.parametrize("missing", ["--trainer-image", "--progress-url"])
def test_options_without_a_default_are_asked_for(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = NEEDED.index(missing)
    with pytest.raises(SystemExit) as ended:
        parse_settings(NEEDED[:start] + NEEDED[start + 2 :])
    assert ended.value.code == 2
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no", "Invalid JSON"),
        ('{"enable": false}', "enable: Extra inputs are not permitted"),
        ('{"privateCIDRs": ["10.0.0.1/8"]}', "privateCIDRs: Value error, 10.0.0.1/8 has host bits set"),
        ('{"dnsPorts": [0]}', "dnsPorts.0: Input should be greater than or equal to 1"),
    ],
)
def test_policies_that_cannot_be_built_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--job-network-policy .*{problem}"):
        parse_settings([*NEEDED, "--job-network-policy", text])
