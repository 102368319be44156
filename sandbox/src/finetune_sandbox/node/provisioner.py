"""PersistentVolumes for claims of the sandbox's StorageClass: folders of the state directory."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from finetune_sandbox.node.errors import KubeError, KubeRefused
from finetune_sandbox.node.follow import follow
from finetune_sandbox.node.kube import Json, Kube
from finetune_sandbox.trees import remove_tree

_log = logging.getLogger(__name__)
STORAGE_CLASS = "sandbox"
PROVISIONER = "finetune.dev/sandbox-hostpath"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
_CLAIMS = "/api/v1/persistentvolumeclaims"
_VOLUMES = "/api/v1/persistentvolumes"


def storage_class() -> Json:
    """The StorageClass, the cluster's default one."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def wants_volume(claim: Json) -> bool:
    """Whether a volume is to be made for the claim."""
    spec = claim["spec"]
    unbound = not spec.get("volumeName") and claim["status"].get("phase", "Pending") == "Pending"
    return unbound and spec.get("storageClassName") == STORAGE_CLASS and "deletionTimestamp" not in claim["metadata"]


def is_released(volume: Json) -> bool:
    """Whether a volume of ours has lost its claim and is to be deleted with its content."""
    ours = (volume["metadata"].get("annotations") or {}).get(_PROVISIONED_BY) == PROVISIONER
    policy = volume["spec"].get("persistentVolumeReclaimPolicy")
    return ours and policy == "Delete" and volume["status"].get("phase") == "Released"


def volume_object(claim: Json, folder: Path) -> Json:
    """The PersistentVolume for a claim, bound to it in advance."""
    metadata, spec = claim["metadata"], claim["spec"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"pvc-{metadata['uid']}", "annotations": {_PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": STORAGE_CLASS,
            "volumeMode": "Filesystem",
            "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }


class Provisioner:
    """Makes and removes volumes below ``folder``."""

    def __init__(self, kube: Kube, folder: Path) -> None:
        self._kube = kube
        self._folder = folder

    async def run(self) -> None:
        """Follow claims and volumes for ever."""
        await self._create(_CLASSES, storage_class())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_claims())
            tasks.create_task(self._follow_volumes())

    async def _follow_claims(self) -> None:
        async for change in follow(self._kube, _CLAIMS):
            if change.kind == "SET" and wants_volume(change.object):
                await self._provision(change.object)

    async def _follow_volumes(self) -> None:
        async for change in follow(self._kube, _VOLUMES):
            if change.kind == "SET" and is_released(change.object):
                await self._remove(change.object)

    async def _provision(self, claim: Json) -> None:
        folder = self._folder / claim["metadata"]["namespace"] / claim["metadata"]["name"]
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        await self._create(_VOLUMES, volume_object(claim, folder))

    async def _create(self, path: str, body: Json) -> None:
        while True:
            try:
                await self._kube.create(path, body)
                return
            except KubeRefused as error:
                if error.code == 409:
                    return
                _log.warning("%s %s: %s", body["kind"], body["metadata"]["name"], error)
            except KubeError as error:
                _log.warning("%s %s: %s", body["kind"], body["metadata"]["name"], error)
            await asyncio.sleep(1)

    async def _remove(self, volume: Json) -> None:
        path = Path(volume["spec"]["hostPath"]["path"])
        if path.is_relative_to(self._folder):
            await asyncio.to_thread(remove_tree, path)
        try:
            await self._kube.delete(f"{_VOLUMES}/{volume['metadata']['name']}")
        except KubeError as error:
            # It is still Released: the next event or list brings it here again.
            _log.warning("deleting volume %s: %s", volume["metadata"]["name"], error)
