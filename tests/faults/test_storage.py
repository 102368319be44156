"""Writers that are killed at any instant leave nothing behind that a reader could take for a result."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.object_store import make_bucket, object_store
from support.seeds import ROUNDS_VARIABLE, command, seeds
from support.warm import Program

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with object_store(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.mark.parametrize("seed", seeds()[:1])
@pytest.mark.parametrize("what", ["publish", "checkpoint"])
def test_killed_writers_leave_no_upload_and_no_part(endpoint: str, tmp_path: Path, what: str, seed: int) -> None:
    count = 100 if int(os.environ.get(ROUNDS_VARIABLE, "0")) > 1 else 6
    bucket = f"kills-{what}-{seed}"
    make_bucket(endpoint, bucket)
    options = {"seed": seed, "count": count, "endpoint": endpoint, "bucket": bucket, "folder": tmp_path}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    log = tmp_path / "log"
    code = Program("support.storage_kills", [what, *arguments], log, os.environ).wait()
    repeat, told = command(f"tests/faults/test_storage.py -k {what}", seed), log.read_text()
    assert code == 0, f"{repeat}\n{told[-4000:]}"
    record = json.loads(told.splitlines()[-1])
    assert (record["kills"], record["uploadsAtTheEnd"]) == (count, 0), f"{repeat}\n{record}"
    assert record["wholeAtTheEnd"] == (1 if what == "publish" else 2), f"{repeat}\n{record}"
