"""A real S3-compatible store for tests: SeaweedFS in one process on free ports, as the sandbox runs it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from finetune_sandbox import parts
from finetune_sandbox.cluster import store_program
from finetune_sandbox.layout import Layout
from finetune_sandbox.ports import LOOPBACK, Reservation
from finetune_sandbox.processes import spawn

ACCESS_KEY, SECRET_KEY = "TESTACCESSKEY", "test-secret-key-of-forty-characters-0000"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
_NAMES = tuple(name for name in parts.LEADING_PORTS if name not in (parts.API_PORT, parts.KUBELET_PORT))
_READY_SECONDS = 60.0


@contextmanager
def object_store(folder: Path) -> Iterator[str]:
    """Runs a store and gives its endpoint."""
    reservation = Reservation(_NAMES, parts.FOLLOWING_PORTS)
    ports = reservation.ports
    part = parts.store(store_program(), Layout(folder), ports, parts.Credentials(ACCESS_KEY, SECRET_KEY))
    (folder / "data" / "objects").mkdir(parents=True)
    reservation.release()
    environment = {**part.environment, "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    process = spawn(part.argv, environment, folder, folder / "seaweedfs.log", signal.SIGKILL)
    endpoint = f"http://{LOOPBACK}:{ports[parts.S3_PORT]}"
    try:
        _wait(process, endpoint, folder / "seaweedfs.log")
        yield endpoint
    finally:
        process.kill()
        process.wait()
        for socket in parts.store_sockets(ports):
            socket.unlink(missing_ok=True)


def make_bucket(endpoint: str, bucket: str) -> None:
    """Makes an empty bucket, unless the store has made it by itself meanwhile."""
    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=bucket)


def _wait(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            make_bucket(endpoint, "first")
            return
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the store did not start: {error}\n{log.read_text()[-2000:]}") from error
            time.sleep(0.1)
