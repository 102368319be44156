"""What the operator is told on its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import ValidationError

from finetune_operator.errors import ConfigurationError
from finetune_operator.network import JobNetwork


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True)
class Settings:
    """Settings of one operator process.

    Attributes:
        namespace: the operator's own namespace, where it keeps the CA of its progress server.
        watch_namespaces: namespaces whose jobs are served; empty for all.
        trainer_image: image of the pods.
        progress_listen: where the progress server listens.
        progress_url: how pods reach it.
        health_listen: where probes and metrics are served, or None.
        secret_grace_seconds: how long a job waits for a Secret that does not exist before it fails.
        gang_grace_seconds: how long pods of a job that are placed wait for others that cannot be, once to twice.
        resync_seconds: how often every unfinished job is looked at without being told to.
        job_network: the NetworkPolicies of pods.
    """

    namespace: str
    watch_namespaces: tuple[str, ...]
    trainer_image: str
    progress_listen: Address
    progress_url: str
    health_listen: Address | None
    secret_grace_seconds: float
    gang_grace_seconds: float
    resync_seconds: float
    log_format: str
    job_network: JobNetwork


def parse_address(text: str) -> Address:
    """Reads ``host:port``.

    Raises:
        ConfigurationError: no port, or one that is no port number.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"{text!r} is not an address: use host:port, such as 0.0.0.0:8443")
    return Address(host.strip("[]"), int(port))


def parse_job_network(text: str) -> JobNetwork:
    """Reads the chart's value ``jobNetworkPolicy`` as JSON.

    Raises:
        ConfigurationError: not JSON, or not what the chart's schema allows.
    """
    try:
        return JobNetwork.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"--job-network-policy {path}: {first['msg']}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune-operator", description="Operator of FineTuneJobs")
    add = parser.add_argument
    add("--namespace", default="finetune-system", help="the operator's own namespace")
    add("--watch-namespace", action="append", default=[], help="serve only this namespace; may be given several times")
    add("--trainer-image", required=True, help="image of the prepare and training pods")
    add("--progress-listen", default="0.0.0.0:8443", help="host:port of the progress server")
    add("--progress-url", required=True, help="https URL by which pods reach the progress server")
    add("--health-listen", help="host:port of /healthz, /readyz and /metrics")
    add("--secret-grace-seconds", type=float, default=30.0, help="wait this long for a Secret that does not exist")
    add("--gang-grace-seconds", type=float, default=300.0, help="let placed pods wait this long for unplaced ones")
    add(
        "--resync-seconds",
        type=float,
        default=60.0,
        help="look at unfinished jobs this often without being told to",
    )
    add("--job-network-policy", default="{}", help="the chart's value jobNetworkPolicy, as JSON")
    add("--log-format", choices=("plain", "json"), default="plain")
    return parser


def parse_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Reads the command line.

    Raises:
        ConfigurationError: a value that cannot work, with the option's name.
    """
    options = _parser().parse_args(arguments)
    url = urlsplit(options.progress_url)
    if url.scheme != "https" or not url.hostname:
        raise ConfigurationError(f"--progress-url {options.progress_url!r} must be an https URL with a host")
    if options.resync_seconds <= 0:
        raise ConfigurationError(f"--resync-seconds {options.resync_seconds:g} must be more than 0")
    return Settings(
        namespace=options.namespace,
        watch_namespaces=tuple(options.watch_namespace),
        trainer_image=options.trainer_image,
        progress_listen=parse_address(options.progress_listen),
        progress_url=options.progress_url.rstrip("/"),
        health_listen=parse_address(options.health_listen) if options.health_listen else None,
        secret_grace_seconds=options.secret_grace_seconds,
        gang_grace_seconds=options.gang_grace_seconds,
        resync_seconds=options.resync_seconds,
        log_format=options.log_format,
        job_network=parse_job_network(options.job_network_policy),
    )
