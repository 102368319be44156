"""The compiled sink behind TLS that uploads are measured against."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.trainer.workload import PROJECT

from finetune_sandbox.pki import new_authority

from support.go_programs import build  # isort: skip

SOURCE = PROJECT / "benchmarks" / "storage" / "sink"


@dataclass(frozen=True)
class Sink:
    """Where it listens, and the file of the authority that its certificate is from."""

    endpoint: str
    authority: Path

    @property
    def environment(self) -> dict[str, str]:
        """What an S3 client needs to reach it."""
        return {
            "AWS_CA_BUNDLE": str(self.authority),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def program() -> Path:
    """The sink, compiled unless that was done before."""
    return build(SOURCE)


@contextmanager
def sink(folder: Path) -> Iterator[Sink]:
    """Runs a sink; ``folder`` is for its certificates."""
    authority = new_authority("benchmark")
    server = authority.server("sink", ("127.0.0.1",))
    (folder / "ca.pem").write_bytes(authority.credential.certificate)
    (folder / "server.pem").write_bytes(server.certificate)
    (folder / "server.key").write_bytes(server.key)
    command = [str(program()), str(folder / "server.pem"), str(folder / "server.key")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Sink(f"https://127.0.0.1:{process.stdout.readline().strip()}", folder / "ca.pem")
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
