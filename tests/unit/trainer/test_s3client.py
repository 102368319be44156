"""What clients of S3 share."""

from __future__ import annotations

import pytest
from botocore.loaders import JSONFileLoader

from finetune_api.spec import AddressingStyle, Checksum
from finetune_trainer.storage import s3client
from finetune_trainer.storage.s3client import Client, Connection, read_descriptions

KEYS = (("aws_access_key_id", "key"), ("aws_secret_access_key", "secret"))


def client(region: str) -> Client:
    return Client(Connection("http://127.0.0.1:9", region, AddressingStyle.PATH, Checksum.CRC64NVME, KEYS))


def test_clients_of_different_regions_read_the_description_of_s3_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = JSONFileLoader.load_file

    def noted(self: JSONFileLoader, path: str) -> object:
        content = load(self, path)
        if content is not None:
            read.append(path)
        return content

    s3client._loader_of.cache_clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(JSONFileLoader, "load_file", noted)
    assert client("eu-west-1").s3.meta.region_name == "eu-west-1"
    before = list(read)
    assert any("s3" in name for name in before)
    assert client("us-west-2").s3.meta.region_name == "us-west-2"
    assert read == before


def test_descriptions_are_read_without_a_look_for_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_credentials(*_: object) -> None:
        raise AssertionError("looked for credentials")

    monkeypatch.setattr("botocore.session.Session.get_credentials", no_credentials)
    s3client._loader_of.cache_clear()  # type: ignore[attr-defined]
    read_descriptions()
    assert s3client._loader_of.cache_info().currsize == 1  # type: ignore[attr-defined]
