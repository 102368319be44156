"""Plans for the prepare and publish stages, over a folder or a real object store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.plan import Device, HubPlace, JobReference, RunPlan, StoreAccess, World, store_uses
from finetune_api.results import Prepared
from finetune_api.spec import FineTuneJobSpec
from finetune_api.uris import S3Location
from finetune_trainer.storage.interface import ObjectStore, StoreFields
from finetune_trainer.storage.stores import open_store

FIELDS = StoreFields("spec.output.destination", "spec.output.s3")
WORLD = World(
    nodes=1,
    processes_per_node=1,
    threads_per_process=1,
    device=Device.CPU,
    master_address="127.0.0.1",
    master_port=29500,
)


def chat(question: str, answer: str) -> dict[str, Any]:
    """One row: a question and its answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def jsonl(rows: Iterable[object]) -> bytes:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


ROWS = tuple(chat(f"What is {number} plus one?", f"It is {number + 1}.") for number in range(30))


@dataclass
class Place:
    """A store with a bucket, and a folder for a pod's workspace."""

    endpoint: str
    bucket: str
    workspace: Path
    credentials: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "FINETUNE_WORKSPACE": str(self.workspace),
            "FINETUNE_TERMINATION_LOG": str(self.workspace / "termination-log"),
            **self.credentials,
        }

    @property
    def store(self) -> ObjectStore:
        return open_store(StoreAccess(endpoint_url=self.endpoint), self.environment, FIELDS)

    def put(self, key: str, content: bytes) -> None:
        self.store.put(S3Location(self.bucket, key), content)

    def put_folder(self, folder: Path, key: str) -> None:
        """Uploads the files of a folder, such as a model."""
        for path in sorted(folder.iterdir()):
            self.store.upload(path, S3Location(self.bucket, key).child(path.name))

    def keys(self, prefix: str = "") -> list[str]:
        return [found.location.key for found in self.store.objects(S3Location(self.bucket, prefix))]

    def plan(
        self,
        *,
        prepared: Prepared | None = None,
        name: str = "haiku",
        claims: Mapping[str, str] | None = None,
        hubs: Mapping[str, HubPlace] | None = None,
        **fields: Any,
    ) -> RunPlan:
        """A plan of the smallest spec on this store, with other values for whole fields of the spec."""
        spec = self.spec(**fields)
        return RunPlan(
            job=JobReference(namespace="team-a", name=name, uid="1234"),
            attempt=1 if prepared else 0,
            spec=spec,
            world=WORLD,
            stores={use: StoreAccess(endpoint_url=self.endpoint) for use in store_uses(spec)},
            claims=dict(claims or {}),
            prepared=prepared,
            hubs=dict(hubs or {}),
        )

    def spec(self, **fields: Any) -> FineTuneJobSpec:
        """The smallest spec, with other values for whole fields."""
        base = {
            "model": {"source": f"s3://{self.bucket}/model", "name": "example/tiny"},
            "dataset": self.dataset(),
            "hyperparameters": {"maxSequenceLength": 256},
            "output": {"destination": f"s3://{self.bucket}/results"},
        }
        return FineTuneJobSpec.model_validate(base | fields)

    def dataset(self, **fields: Any) -> dict[str, Any]:
        """A dataset of one file, with other fields."""
        return {"train": [{"source": f"s3://{self.bucket}/data/train.jsonl"}], **fields}
