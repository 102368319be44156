"""The store's client behind a proxy that breaks things: what arrives is whole, and little is sent again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest

from finetune_api.plan import StoreAccess
from finetune_api.uris import S3Location
from finetune_trainer.errors import StorageError
from finetune_trainer.storage.interface import ObjectStore
from finetune_trainer.storage.ranges import PIECE_BYTES
from finetune_trainer.storage.stores import open_store
from support.fault_proxy import Fault, Faults
from support.object_store import CREDENTIALS
from support.run_plans import FIELDS, Place
from support.s3_faults import faulty

LARGE = 3 * PIECE_BYTES + 5


class Proxied:
    """Stores behind proxies of one test."""

    def __init__(self, place: Place, stack: ExitStack) -> None:
        self.place, self._stack = place, stack

    def store(self, faults: Faults) -> ObjectStore:
        endpoint = self._stack.enter_context(faulty(self.place.endpoint, faults))
        return open_store(StoreAccess(endpoint_url=endpoint), CREDENTIALS, FIELDS)

    def at(self, key: str) -> S3Location:
        return S3Location(self.place.bucket, key)

    def leftovers(self) -> int:
        return self.place.store.abort_uploads(self.at("faulty"))


@pytest.fixture
def proxied(s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxied]:
    monkeypatch.setattr("finetune_trainer.storage.retries.FIRST_SECONDS", 0.01)
    with ExitStack() as stack:
        yield Proxied(s3_place, stack)


@pytest.mark.parametrize(
    "kind",
    sorted(set(Fault) - {Fault.SLOW_DOWN_FOR}, key=lambda fault: fault.name),
    ids=lambda fault: fault.name.lower(),
)
def test_whatever_breaks_twice_in_a_row_is_overcome(proxied: Proxied, tmp_path: Path, kind: Fault) -> None:
    faults = Faults(seed=1, share=1.0, kinds=(kind,))
    store, small, large = proxied.store(faults), os.urandom(1000), os.urandom(LARGE)
    store.put(proxied.at("faulty/small"), small)
    store.write(proxied.at("faulty/large"), memoryview(large))
    assert store.read(proxied.at("faulty/small")) == small
    store.download(proxied.at("faulty/large"), tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == large
    assert sorted(found.location.key for found in store.objects(proxied.at("faulty"))) == [
        "faulty/large",
        "faulty/small",
    ]
    assert store.put_new(proxied.at("faulty/once"), b"first")
    store.delete(proxied.at("faulty/small"))
    assert proxied.place.keys("faulty/small") == []
    assert proxied.leftovers() == 0
    assert {fault for fault, _ in faults.met} == {kind}


@pytest.mark.parametrize("kind", [Fault.RESET_WITHIN_BODY, Fault.SLOW_DOWN], ids=lambda fault: fault.name.lower())
def test_a_broken_upload_sends_at_most_the_broken_parts_again(proxied: Proxied, kind: Fault) -> None:
    faults = Faults(seed=1, share=1.0, kinds=(kind,), only="partNumber=2")
    content = os.urandom(LARGE)
    counted = Faults(seed=1, share=0.0)
    with faulty(proxied.place.endpoint, counted) as behind, faulty(behind, faults) as endpoint:
        store = open_store(StoreAccess(endpoint_url=endpoint), CREDENTIALS, FIELDS)
        store.write(proxied.at("faulty/large"), memoryview(content))
    parts = [name for name in counted.asked if "partNumber" in name]
    assert sorted(counted.asked[name] for name in parts) == [1, 1, 1, 1]
    assert len(faults.met) == 2
    assert proxied.place.store.read(proxied.at("faulty/large")) == content


def test_a_store_is_left_alone_for_as_long_as_it_asks(proxied: Proxied) -> None:
    faults = Faults(seed=1, share=1.0, kinds=(Fault.SLOW_DOWN_FOR,))
    started = time.monotonic()
    proxied.store(faults).put(proxied.at("faulty/small"), b"1")
    assert time.monotonic() - started >= len(faults.met) == 2


@pytest.mark.parametrize("begun", [False, True], ids=["at once", "gone on with"])
def test_pieces_whose_last_answer_is_lost_are_not_sent_again(proxied: Proxied, begun: bool) -> None:
    faults = Faults(seed=1, share=1.0, kinds=(Fault.LOST_ANSWER,), only="POST /")
    store, content = proxied.store(faults), os.urandom(LARGE)
    if begun:
        Begun(proxied.place, "faulty/large").send(2, content[PIECE_BYTES : 2 * PIECE_BYTES])
    with store.writing(proxied.at("faulty/large"), LARGE) as target:
        target.write(content)
    assert proxied.place.store.read(proxied.at("faulty/large")) == content
    sent = [count for name, count in faults.asked.items() if "partNumber" in name and "PUT" in name]
    assert sent == [1] * (3 if begun else 4)
    assert proxied.leftovers() == 0


def test_an_upload_whose_last_answer_is_lost_is_not_sent_again(proxied: Proxied) -> None:
    faults = Faults(seed=1, share=1.0, kinds=(Fault.LOST_ANSWER,), only="POST /")
    store, content = proxied.store(faults), os.urandom(LARGE)
    store.write(proxied.at("faulty/large"), memoryview(content))
    assert proxied.place.store.read(proxied.at("faulty/large")) == content
    assert all(count == 1 for name, count in faults.asked.items() if "partNumber" in name and "PUT" in name)


def client_of(place: Place) -> Any:
    """What does not depend on the code that is tested."""
    keys: Any = {name.lower(): value for name, value in CREDENTIALS.items()}
    return boto3.client("s3", endpoint_url=place.endpoint, region_name="us-east-1", **keys)


def parts_of(place: Place, key: str) -> int:
    """How many parts of an unfinished upload the store has."""
    client, where = client_of(place), {"Bucket": place.bucket}
    uploads = client.list_multipart_uploads(**where, Prefix=key).get("Uploads", ())
    return sum(len(client.list_parts(**where, Key=key, UploadId=one["UploadId"]).get("Parts", ())) for one in uploads)


class Begun:
    """An upload that a process began by hand and did not end."""

    def __init__(self, place: Place, key: str) -> None:
        self._client = client_of(place)
        self._place = {"Bucket": place.bucket, "Key": key}
        self._upload = self._client.create_multipart_upload(**self._place, ChecksumAlgorithm="CRC64NVME")["UploadId"]

    def send(self, number: int, content: bytes) -> None:
        self._client.upload_part(
            **self._place, UploadId=self._upload, PartNumber=number, Body=content, ChecksumAlgorithm="CRC64NVME"
        )


def parts_sent(proxied: Proxied, key: str, content: bytes) -> list[str]:
    """Writes an object piece by piece; the numbers of the parts that were sent, as often as they were."""
    counted = Faults(seed=1, share=0.0)
    with proxied.store(counted).writing(proxied.at(key), len(content)) as target:
        for start in range(0, len(content), 1 << 20):
            target.write(content[start : start + (1 << 20)])
    assert proxied.place.store.read(proxied.at(key)) == content
    assert proxied.leftovers() == 0
    sent = [number for name in counted.asked for number in re.findall(r"PUT .*partNumber=(\d+)", name)]
    return sorted(sent)


def test_a_broken_upload_is_gone_on_with_by_another_process(proxied: Proxied) -> None:
    content = os.urandom(LARGE)
    begun = Begun(proxied.place, "faulty/large")
    for number in (1, 3):
        begun.send(number, content[(number - 1) * PIECE_BYTES : number * PIECE_BYTES])
    assert parts_sent(proxied, "faulty/large", content) == ["2", "4"]


def test_a_part_that_is_another_is_sent_again(proxied: Proxied) -> None:
    content = os.urandom(LARGE)
    flipped = bytes([content[0] ^ 1]) + content[1:PIECE_BYTES]
    begun = Begun(proxied.place, "faulty/large")
    begun.send(1, flipped)
    for number in (2, 3, 4):
        begun.send(number, content[(number - 1) * PIECE_BYTES : number * PIECE_BYTES])
    assert parts_sent(proxied, "faulty/large", content) == ["1"]


def test_an_upload_that_was_cut_otherwise_is_removed(proxied: Proxied) -> None:
    content = os.urandom(LARGE)
    Begun(proxied.place, "faulty/large").send(1, content[: PIECE_BYTES + 1])
    # Of another object whose name begins in the same way.
    Begun(proxied.place, "faulty/large-one").send(1, content[:PIECE_BYTES])
    counted = Faults(seed=1, share=0.0)
    with proxied.store(counted).writing(proxied.at("faulty/large"), LARGE) as target:
        target.write(content)
    assert len([name for name in counted.asked if "PUT" in name and "partNumber" in name]) == 4
    assert proxied.leftovers() == 1


def test_a_process_that_is_killed_leaves_parts_that_count(proxied: Proxied, tmp_path: Path) -> None:
    content = os.urandom(LARGE)
    (tmp_path / "content").write_bytes(content)
    code = (
        "import os, sys, time\n"
        "from finetune_api.plan import StoreAccess\n"
        "from finetune_api.uris import S3Location\n"
        "from finetune_trainer.storage.interface import StoreFields\n"
        "from finetune_trainer.storage.stores import open_store\n"
        "store = open_store(StoreAccess(endpoint_url=sys.argv[1]), os.environ, StoreFields('a', 'b'))\n"
        "content = open(sys.argv[3], 'rb').read()\n"
        "with store.writing(S3Location(sys.argv[2], 'faulty/large'), len(content)) as target:\n"
        "    target.write(content[:-1])\n"
        "    time.sleep(3600)\n"
    )
    arguments = [proxied.place.endpoint, proxied.place.bucket, str(tmp_path / "content")]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], env=os.environ | CREDENTIALS)
    deadline = time.monotonic() + 120
    while parts_of(proxied.place, "faulty/large") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert parts_sent(proxied, "faulty/large", content) == ["4"]


def test_content_that_stays_wrong_is_refused(proxied: Proxied, tmp_path: Path) -> None:
    """A flipped byte in a piece of a large object is seen by the sum of the whole."""
    content, location = os.urandom(LARGE), proxied.at("faulty/large")
    proxied.place.store.write(location, memoryview(content))
    faults = Faults(seed=1, share=1.0, kinds=(Fault.WRONG_BYTE,), only="bytes=8388608-")
    store = proxied.store(faults)
    with pytest.raises(StorageError, match="another checksum than the store has"):
        list(store.chunks(location))
    # The proxy breaks the same no more than twice in a row.
    with pytest.raises(StorageError, match="another checksum than the store has"):
        list(store.chunks(location))
    assert b"".join(store.chunks(location)) == content


def test_a_store_that_stays_busy_is_given_up(proxied: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.fault_proxy.MOST_IN_A_ROW", 100)
    faults = Faults(seed=1, share=1.0, kinds=(Fault.SLOW_DOWN,))
    with pytest.raises(StorageError, match=r"SlowDown \(HTTP 503\)"):
        proxied.store(faults).put(proxied.at("faulty/small"), b"1")
    assert len(faults.met) == 10
