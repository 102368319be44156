"""The demo's bucket: what goes into it before the job, and what is there afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

PROJECT = Path(__file__).resolve().parents[2]
ROWS = PROJECT / "examples" / "data" / "finetune-operator.jsonl"
PAIRS = PROJECT / "examples" / "data" / "finetune-operator-preferences.jsonl"
BUCKET = "finetune"
MODEL_KEY = "models/SmolLM2-135M-Instruct"
ROWS_KEY = "datasets/finetune-operator/train.jsonl"
PAIRS_KEY = "datasets/finetune-operator/preferences.jsonl"
ARTIFACTS = "artifacts"


class Bucket(Protocol):
    """A bucket, in a store or in a folder."""

    def upload(self, file: Path, key: str) -> None: ...

    def sizes(self, prefix: str) -> dict[str, int]:
        """Keys below a prefix with their sizes in bytes."""

    def download(self, key: str, file: Path) -> None: ...


class S3Bucket:
    """A bucket of an S3-compatible store, reached with the variables of ``environment``."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        import boto3

        self._name = name
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            region_name=environment["AWS_REGION"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )

    def upload(self, file: Path, key: str) -> None:
        self._client.upload_file(str(file), self._name, key)

    def sizes(self, prefix: str) -> dict[str, int]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=prefix)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}

    def download(self, key: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._client.download_file(self._name, key, str(file))


class FolderBucket:
    """A bucket of a ``file://`` store: a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def upload(self, file: Path, key: str) -> None:
        self._copy(file, self._root / key)

    def sizes(self, prefix: str) -> dict[str, int]:
        files = sorted(path for path in (self._root / prefix).rglob("*") if path.is_file())
        return {str(path.relative_to(self._root)): path.stat().st_size for path in files}

    def download(self, key: str, file: Path) -> None:
        self._copy(self._root / key, file)

    def _copy(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def fill(bucket: Bucket, model: Path, rows: Path, pairs: Path) -> None:
    """Puts the model's folder, the rows and the pairs where the examples' manifests expect them."""
    for file in sorted(model.iterdir()):
        bucket.upload(file, f"{MODEL_KEY}/{file.name}")
    bucket.upload(rows, ROWS_KEY)
    bucket.upload(pairs, PAIRS_KEY)


def fetch_folder(bucket: Bucket, prefix: str, into: Path) -> Path:
    """Downloads everything below a prefix into a folder and returns it."""
    for key in bucket.sizes(f"{prefix}/"):
        bucket.download(key, into / key.removeprefix(f"{prefix}/"))
    return into
