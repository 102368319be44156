"""Both kinds of store keep the same promises, and fail in words that name the field to change."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from finetune_api.plan import StoreAccess
from finetune_api.uris import S3Location
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.storage.interface import StoreFields, fields_of
from finetune_trainer.storage.stores import open_store
from support.object_store import CREDENTIALS
from support.run_plans import FIELDS, Place

ENDPOINT_REMEDY = "create the bucket or correct spec.output.destination; for a bucket elsewhere correct spec.output.s3"


def test_what_is_put_is_read(place: Place) -> None:
    place.put("a/b.txt", b"0123456789")
    location, store = S3Location(place.bucket, "a/b.txt"), place.store
    assert store.read(location) == b"0123456789"
    assert store.read(location, 2, 3) == b"234"
    assert b"".join(store.chunks(location)) == b"0123456789"
    found = store.stat(location)
    assert found is not None
    assert (found.location, found.size) == (location, 10)


def test_the_entity_tag_changes_with_the_content(place: Place) -> None:
    tags = set()
    for content in (b"one", b"two"):
        place.put("a", content)
        found = place.store.stat(S3Location(place.bucket, "a"))
        assert found is not None
        tags.add(found.entity_tag)
    assert len(tags) == 2


def test_objects_are_listed_only_below_the_prefix(place: Place) -> None:
    for key in ("x/b", "x/a/c", "x/B", "x/a-", "xy", "x/ü"):
        place.put(key, b"1")
    assert set(place.keys("x")) == {"x/B", "x/a-", "x/a/c", "x/b", "x/ü"}
    assert place.keys("nothing") == []


def test_deleting_twice_is_no_error_and_leaves_nothing(place: Place) -> None:
    place.put("probe/deep/one", b"1")
    for _ in range(2):
        place.store.delete(S3Location(place.bucket, "probe/deep/one"))
    assert place.store.stat(S3Location(place.bucket, "probe/deep/one")) is None
    assert place.keys("probe") == []


@pytest.mark.parametrize("size", [0, 1000, 20 << 20], ids=["empty", "small", "in parts"])
def test_files_arrive_whole(place: Place, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    place.store.upload(source, S3Location(place.bucket, "file"))
    place.store.download(S3Location(place.bucket, "file"), target)
    assert target.read_bytes() == source.read_bytes()


def test_an_object_is_made_once(place: Place) -> None:
    location = S3Location(place.bucket, "COMMITTED")
    assert place.store.put_new(location, b"first")
    assert not place.store.put_new(location, b"second")
    assert place.store.read(location) == b"first"


@pytest.mark.parametrize("size", [0, 1000, (20 << 20) + 3], ids=["empty", "small", "in parts"])
def test_memory_is_written_and_read_in_place(place: Place, size: int) -> None:
    content, location = memoryview(os.urandom(size)), S3Location(place.bucket, "shard")
    place.store.write(location, content)
    assert place.store.read(location) == content
    start = size // 3
    target = memoryview(bytearray(size - start))
    if target:
        place.store.read_into(location, start, target)
        assert target == content[start:]


@pytest.mark.parametrize("size", [0, 1000, (20 << 20) + 3], ids=["empty", "small", "in parts"])
def test_what_is_written_piece_by_piece_appears_when_it_is_whole(place: Place, size: int) -> None:
    content, location = os.urandom(size), S3Location(place.bucket, "made")
    with place.store.writing(location, size) as target:
        for start in range(0, size, 1 << 20):
            target.write(content[start : start + (1 << 20)])
        assert place.store.stat(location) is None
    assert place.store.read(location) == content


@pytest.mark.parametrize("size", [1000, 20 << 20], ids=["small", "in parts"])
def test_what_is_not_written_to_its_end_does_not_appear(place: Place, size: int) -> None:
    location = S3Location(place.bucket, "made")
    message = f"{size - 1} bytes were written to {location}, {size} were announced"
    with pytest.raises(ValueError, match=message), place.store.writing(location, size) as target:
        target.write(bytes(size - 1))
    with suppress(ZeroDivisionError), place.store.writing(location, size) as target:
        target.write(bytes(size))
        raise ZeroDivisionError
    assert place.store.stat(location) is None


def test_reading_past_the_end_is_a_storage_error(place: Place) -> None:
    place.put("short", b"0123")
    with pytest.raises(StorageError, match="ends before byte 6"):
        place.store.read_into(S3Location(place.bucket, "short"), 2, memoryview(bytearray(4)))


def test_broken_uploads_are_removed_below_the_prefix_only(s3_place: Place) -> None:
    store = s3_place.store
    client = vars(type(store))["_client"].fget(store)
    for key in ("runs/a/one", "runs/b/two"):
        upload = client.create_multipart_upload(Bucket=s3_place.bucket, Key=key)
        client.upload_part(
            Bucket=s3_place.bucket, Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=bytes(5 << 20)
        )
    assert store.abort_uploads(S3Location(s3_place.bucket, "runs/a")) == 1
    left = client.list_multipart_uploads(Bucket=s3_place.bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["runs/b/two"]
    assert store.abort_uploads(S3Location(s3_place.bucket, "runs/a")) == 0


def test_a_missing_bucket_names_the_field(place: Place) -> None:
    location = S3Location("no-such-bucket", "key")
    expected = f"the bucket 'no-such-bucket' of spec.output.destination does not exist at {place.endpoint}"
    for call in (
        lambda: place.store.put(location, b"1"),
        lambda: place.store.read(location),
        lambda: list(place.store.objects(location)),
        lambda: place.store.delete(location),
    ):
        with pytest.raises(UserError) as refused:
            call()
        assert refused.value.message == expected
        assert refused.value.remedy.startswith(ENDPOINT_REMEDY)


def test_a_missing_object_is_an_error_only_when_it_is_read(place: Place) -> None:
    location = S3Location(place.bucket, "nothing")
    assert place.store.stat(location) is None
    with pytest.raises(StorageError, match=f"s3://{place.bucket}/nothing"):
        place.store.read(location)


@pytest.mark.parametrize(
    ("credentials", "message", "remedy"),
    [
        (
            {**CREDENTIALS, "AWS_ACCESS_KEY_ID": "UNKNOWN"},
            "does not know the access key (InvalidAccessKeyId)",
            "correct AWS_ACCESS_KEY_ID in the Secret of spec.output.s3.credentialsSecretRef",
        ),
        (
            {**CREDENTIALS, "AWS_SECRET_ACCESS_KEY": "wrong-secret-key"},
            "the secret key does not belong to the access key (SignatureDoesNotMatch)",
            "correct AWS_SECRET_ACCESS_KEY in the Secret of spec.output.s3.credentialsSecretRef",
        ),
    ],
)
def test_wrong_credentials_say_which_half_is_wrong(
    s3_endpoint: str, credentials: dict[str, str], message: str, remedy: str
) -> None:
    store = open_store(StoreAccess(endpoint_url=s3_endpoint), credentials, FIELDS)
    location = S3Location("first", "key")
    for call in (
        lambda: store.put(location, b"1"),
        lambda: store.stat(location),
        lambda: list(store.objects(location)),
    ):
        with pytest.raises(UserError) as refused:
            call()
        assert refused.value.message.startswith("wrong credentials for spec.output.destination: ")
        assert refused.value.message.endswith(message)
        assert refused.value.remedy == remedy
        assert "wrong-secret-key" not in str(refused.value.__cause__)


def test_credentials_and_endpoint_come_from_prefixed_variables(s3_place: Place) -> None:
    prefixed = {f"MODEL_{name}": value for name, value in CREDENTIALS.items()}
    access = StoreAccess(environment_prefix="MODEL_")
    store = open_store(access, {**prefixed, "MODEL_AWS_ENDPOINT_URL": s3_place.endpoint}, FIELDS)
    assert store.stat(S3Location(s3_place.bucket, "data/train.jsonl")) is not None


def test_a_secret_without_a_key_is_refused_rather_than_replaced_by_the_nodes_own_credentials() -> None:
    access = StoreAccess(endpoint_url="http://127.0.0.1:9", environment_prefix="OUTPUT_")
    with pytest.raises(UserError) as refused:
        open_store(access, {"OUTPUT_AWS_ACCESS_KEY_ID": "A", **CREDENTIALS}, FIELDS)
    assert refused.value.message == (
        "there are no credentials for the store of spec.output.destination: the Secret has no AWS_SECRET_ACCESS_KEY"
    )


def test_an_endpoint_that_does_not_answer_is_a_storage_error() -> None:
    store = open_store(StoreAccess(endpoint_url="http://127.0.0.1:9"), CREDENTIALS, FIELDS)
    with pytest.raises(StorageError) as failed:
        store.put(S3Location("bucket", "key"), b"1")
    assert failed.value.message.startswith(
        "the store at http://127.0.0.1:9 cannot be reached for s3://bucket/key of spec.output.destination: "
    )
    assert failed.value.remedy.startswith("check spec.output.s3.endpointURL")


def test_an_endpoint_that_is_no_url_is_a_user_error() -> None:
    store = open_store(StoreAccess(endpoint_url="http://a b"), CREDENTIALS, FIELDS)
    with pytest.raises(UserError) as refused:
        store.put(S3Location("bucket", "key"), b"1")
    assert refused.value.remedy == "correct spec.output.s3.endpointURL"


@pytest.fixture
def web_server() -> Iterator[str]:
    """Something that speaks HTTP and is no object store."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(404)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_web_server_is_no_object_store(web_server: str) -> None:
    store = open_store(StoreAccess(endpoint_url=web_server), CREDENTIALS, FIELDS)
    with pytest.raises(StorageError) as failed:
        store.put(S3Location("bucket", "key"), b"1")
    assert "s3://bucket/key" in failed.value.message
    assert "spec.output.s3.endpointURL" in failed.value.remedy


def test_a_folder_that_is_a_file_is_a_storage_error(folder_place: Place) -> None:
    folder_place.put("file", b"1")
    with pytest.raises(StorageError, match="File exists"):
        folder_place.put("file/below", b"1")


def test_an_object_appears_only_when_it_is_complete(folder_place: Place, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        folder_place.store.upload(tmp_path / "missing", S3Location("bucket", "partial"))
    assert folder_place.keys("partial") == []
    assert folder_place.store.stat(S3Location("bucket", "partial")) is None


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("output", StoreFields("spec.output.destination", "spec.output.s3")),
        ("model", StoreFields("spec.model.source", "spec.output.s3")),
        ("train-0", StoreFields("spec.dataset.train[0].source", "spec.dataset.train[0].s3")),
        ("validation-0", StoreFields("spec.dataset.validation.sources[0].source", "spec.output.s3")),
    ],
)
def test_fields_behind_each_use(folder_place: Place, use: str, expected: StoreFields) -> None:
    dataset = {
        "train": [{"source": "s3://bucket/a.jsonl", "s3": {"region": "eu-west-1"}}],
        "validation": {"sources": [{"source": "s3://bucket/b.jsonl"}]},
    }
    assert fields_of(folder_place.plan(dataset=dataset), use) == expected


def test_an_endpoint_with_credentials_is_refused_and_not_repeated() -> None:
    variables = {"OUTPUT_AWS_ENDPOINT_URL": "https://someone:a-password@store.example"}
    with pytest.raises(UserError, match="holds a user or a password") as refused:
        open_store(StoreAccess(environment_prefix="OUTPUT_"), variables, FIELDS)
    assert "a-password" not in str(refused.value)
