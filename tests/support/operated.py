"""A cluster with the operator on it, and the questions that tests ask of it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import boto3
import yaml

from finetune_sandbox.errors import RequestFailed
from finetune_sandbox.installation import OperatorProcess, kubectl
from support.kube_reader import KubeReader

Object = dict[str, Any]
T = TypeVar("T")

SECRET = "s3-credentials"
_SECRET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")
_POLL_SECONDS = 0.2


class TimedOut(AssertionError):
    """A condition did not become true; the message shows what was there instead."""


def eventually(check: Callable[[], T], seconds: float, what: Callable[[], str] = lambda: "") -> T:
    """The first true value of ``check``.

    Raises:
        TimedOut: none came in time.
    """
    deadline = time.monotonic() + seconds
    while not (value := check()):
        if time.monotonic() > deadline:
            raise TimedOut(f"not within {seconds} s: {what()}")
        time.sleep(_POLL_SECONDS)
    return value


def condition(job: Object, kind: str) -> Object:
    """One condition of a job; empty where there is none."""
    found = (item for item in (job.get("status") or {}).get("conditions", ()) if item["type"] == kind)
    return next(found, {})


def is_true(job: Object, kind: str) -> bool:
    return condition(job, kind).get("status") == "True"


def finished(job: Object) -> bool:
    return is_true(job, "Complete") or is_true(job, "Failed")


def merged(base: Object, changes: Object) -> Object:
    """``base`` with ``changes`` merged into it; None removes a key."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


@dataclass
class Platform:
    """A cluster, an object store with a tiny model and data in it, and a running operator.

    The operator is a process of this machine, or None for one that runs in the cluster.
    """

    kubeconfig: Path
    store: dict[str, str]
    bucket: str
    folder: str
    operator: OperatorProcess | None = None

    @cached_property
    def s3(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.store["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.store["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.store["AWS_SECRET_ACCESS_KEY"],
            region_name=self.store["AWS_REGION"],
        )

    @cached_property
    def _reader(self) -> KubeReader:
        return KubeReader(self.kubeconfig)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return kubectl(self.kubeconfig, *arguments, stdin=stdin)

    def uri(self, path: str) -> str:
        """URI of something in this session's folder of the bucket."""
        return f"s3://{self.bucket}/{self.folder}/{path}"

    def upload(self, path: str, content: bytes) -> str:
        """Stores an object in this session's folder and returns its URI."""
        self.s3.put_object(Bucket=self.bucket, Key=f"{self.folder}/{path}", Body=content)
        return self.uri(path)

    def upload_folder(self, path: str, source: Path) -> str:
        for file in sorted(source.iterdir()):
            self.upload(f"{path}/{file.name}", file.read_bytes())
        return self.uri(path)

    def keys(self, uri: str) -> list[str]:
        """Keys of all objects below a URI."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def read(self, uri: str) -> bytes:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return bytes(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    def download(self, uri: str, folder: Path) -> Path:
        """Copies all objects below a URI into a folder."""
        prefix = uri.removeprefix(f"s3://{self.bucket}/")
        for key in self.keys(uri):
            target = folder / key.removeprefix(prefix).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read(f"s3://{self.bucket}/{key}"))
        return folder

    def new_namespace(self, name: str | None = None) -> str:
        """A namespace that enforces Pod Security `restricted`, with the Secret of the store in it."""
        name = name or f"t-{uuid.uuid4().hex[:8]}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "finetune-test": "true"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": name},
            "stringData": {key: self.store[key] for key in _SECRET_KEYS},
        }
        self.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all([namespace, secret]))
        return name

    def manifest(self, namespace: str, name: str, **spec: Any) -> Object:
        """A small job that works; ``spec`` changes it, None removes a field."""
        base = {
            "model": {"source": self.uri("models/tiny"), "name": "example/tiny"},
            "dataset": {"train": [{"source": self.uri("data/train.jsonl")}], "validation": {"fraction": "0.2"}},
            "hyperparameters": {"maxSteps": 3, "globalBatchSize": 2, "maxSequenceLength": 128, "learningRate": "1e-3"},
            "method": {"lora": {"rank": 4}},
            "output": {"destination": self.uri("artifacts"), "s3": {"credentialsSecretRef": {"name": SECRET}}},
        }
        return {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name, "namespace": namespace},
            "spec": merged(base, spec),
        }

    def apply(self, manifest: Object) -> None:
        """Plain kubectl apply. JSON, since PyYAML writes the text 1e-3 without quotes and kubectl reads a number."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def submit(self, namespace: str, name: str, **spec: Any) -> Object:
        manifest = self.manifest(namespace, name, **spec)
        self.apply(manifest)
        return manifest

    def job(self, namespace: str, name: str) -> Object:
        return self._reader.get("finetunejobs", namespace, name)

    def children(self, kind: str, namespace: str, name: str, stage: str | None = None) -> list[Object]:
        """Children of a job; ``kind`` is one or, separated by commas, more of what the reader knows."""
        selector = f"finetune.dev/job={name}" + (f",finetune.dev/stage={stage}" if stage else "")
        return [child for each in kind.split(",") for child in self._reader.list(each, namespace, selector)]

    def events(self, namespace: str, name: str) -> list[Object]:
        """Events about a job, oldest first."""
        items = self._reader.list("events.events.k8s.io", namespace)
        about = [
            item for item in items if item["regarding"]["name"] == name and item["regarding"]["kind"] == "FineTuneJob"
        ]
        return sorted(about, key=lambda item: str(item["eventTime"]))

    def events_until(self, namespace: str, name: str, kind: str) -> list[Object]:
        """Events about a job, once the newest is of this type or reason: it is told a moment after the status."""

        def found() -> list[Object]:
            events = self.events(namespace, name)
            return events if events and kind in (events[-1]["type"], events[-1]["reason"]) else []

        return eventually(found, 30, lambda: f"no {kind} at the end of {self.events(namespace, name)}")

    def operator_log(self, lines: int = 60) -> list[str]:
        """The last lines that the operator, a process of this machine, has written."""
        assert self.operator
        return self.operator.log.read_text(errors="replace").splitlines()[-lines:]

    def wait(self, namespace: str, name: str, until: Callable[[Object], bool], seconds: float = 300) -> Object:
        """The job as soon as something is true of it; a job that ends otherwise fails at once, with its status."""
        seen: Object = {}
        with closing(self._reader.changes("finetunejobs", namespace, name, seconds)) as versions:
            for seen in versions:
                if until(seen):
                    return seen
                if finished(seen):
                    raise TimedOut(f"{namespace}/{name} ended without that:\n{self.story(namespace, seen)}")
        raise TimedOut(f"not within {seconds} s: {self.story(namespace, seen)}")

    def wait_finished(self, namespace: str, name: str, seconds: float = 400) -> Object:
        return self.wait(namespace, name, finished, seconds)

    def story(self, namespace: str, job: Object) -> str:
        """A job's status and the ends of its pods' logs, for the message of a failed test."""
        parts = [yaml.safe_dump(job.get("status") or {}, sort_keys=False)]
        for pod in self.children("pods", namespace, job["metadata"]["name"]):
            name = pod["metadata"]["name"]
            try:
                parts.append(f"--- {name}\n{self.kubectl('logs', '-n', namespace, name, '--tail', '25')}")
            except RequestFailed as error:
                parts.append(f"--- {name}: {error}")
        return "\n".join(parts)
