"""A pod's volumes as folders on this machine."""

from __future__ import annotations

import asyncio
import datetime
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from finetune_sandbox.node.errors import KubeRefused, VolumeError
from finetune_sandbox.node.fields import PodAddress
from finetune_sandbox.node.kube import Json, Kube
from finetune_sandbox.node.payload import (
    GENERATED,
    Payload,
    PayloadSetting,
    TokenRequest,
    VolumeFile,
    build_payload,
    token_requests,
)
from finetune_sandbox.node.sources import fetch_sources, volume_references
from finetune_sandbox.node.times import now, parse_time
from finetune_sandbox.trees import remove_tree

# A token is replaced when this much of its life has passed, as the kubelet does.
_TOKEN_SHARE = 0.8
_DATA = "..data"


@dataclass(frozen=True)
class _Token:
    text: str
    replace_at: datetime.datetime


@dataclass(frozen=True)
class PodPlace:
    """Where the files of one pod are kept: on disk, and in memory for volumes of medium Memory."""

    folder: Path
    memory: Path

    def volume(self, volume: Json) -> Path:
        """The folder of a volume that is made for the pod."""
        medium = (volume.get("emptyDir") or {}).get("medium")
        return (self.memory if medium == "Memory" else self.folder / "volumes") / str(volume["name"])

    def remove(self) -> None:
        """Delete everything; also what the pod made unreadable."""
        for folder in (self.folder, self.memory):
            remove_tree(folder)


class PodVolumes:
    """The volumes of one pod."""

    def __init__(
        self, kube: Kube, pod: Json, place: PodPlace, address: PodAddress, allocatable: dict[str, str]
    ) -> None:
        self._kube = kube
        self._pod = pod
        self._place = place
        self._address = address
        self._allocatable = allocatable
        self._tokens: dict[TokenRequest, _Token] = {}
        self._namespace = pod["metadata"]["namespace"]
        self.paths: dict[str, Path] = {}

    async def prepare(self) -> None:
        """Make every volume ready and fill ``paths``; raises VolumeError or KubeError."""
        await asyncio.gather(*(self._prepare(volume) for volume in self._volumes()))

    async def refresh(self, pod: Json) -> None:
        """Write again what has changed in the API since, labels and annotations of the pod among it."""
        self._pod = pod
        for volume in self._volumes():
            if any(kind in volume for kind in GENERATED):
                await self._generate(volume)

    def _volumes(self) -> list[Json]:
        return self._pod["spec"].get("volumes") or []

    async def _prepare(self, volume: Json) -> None:
        try:
            self.paths[volume["name"]] = await self._path(volume)
        except VolumeError as error:
            raise VolumeError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}') from error

    async def _path(self, volume: Json) -> Path:
        if "emptyDir" in volume:
            return _empty_dir(self._place.volume(volume))
        if "hostPath" in volume:
            return host_path(volume["hostPath"])
        if "persistentVolumeClaim" in volume:
            return await self._claim(volume["persistentVolumeClaim"]["claimName"])
        if "ephemeral" in volume:
            return await self._claim(f"{self._pod['metadata']['name']}-{volume['name']}")
        if any(kind in volume for kind in GENERATED):
            return await self._generate(volume)
        kinds = ", ".join(sorted(volume.keys() - {"name"}))
        raise VolumeError(f"volumes of kind {kinds} are not offered by the sandbox's node")

    async def _claim(self, name: str) -> Path:
        claim = await self._kube.find(f"/api/v1/namespaces/{self._namespace}/persistentvolumeclaims/{name}")
        if claim is None:
            raise VolumeError(f'persistentvolumeclaim "{name}" not found')
        if claim["status"].get("phase") != "Bound":
            raise VolumeError(f'persistentvolumeclaim "{name}" is not bound')
        volume = await self._kube.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        source = volume["spec"].get("hostPath") or volume["spec"].get("local")
        if source is None:
            raise VolumeError(f'persistentvolume "{volume["metadata"]["name"]}" is neither hostPath nor local')
        return host_path(source)

    async def _generate(self, volume: Json) -> Path:
        folder = self._place.volume(volume)
        await self._renew_tokens(volume)
        tokens = {request: token.text for request, token in self._tokens.items()}
        sources = await fetch_sources(self._kube, self._namespace, volume_references(volume))
        setting = PayloadSetting(self._pod, self._address, self._allocatable, sources, tokens)
        write_payload(folder, build_payload(volume, setting))
        return folder

    async def _renew_tokens(self, volume: Json) -> None:
        for request in token_requests(volume):
            known = self._tokens.get(request)
            if known is None or now() >= known.replace_at:
                self._tokens[request] = await self._request_token(request)

    async def _request_token(self, request: TokenRequest) -> _Token:
        metadata = self._pod["metadata"]
        account = self._pod["spec"].get("serviceAccountName") or "default"
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        spec: Json = {"expirationSeconds": request.seconds, "boundObjectRef": bound}
        if request.audience:
            spec["audiences"] = [request.audience]
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token"
        asked = now()
        try:
            status = (await self._kube.create(path, body))["status"]
        except KubeRefused as error:
            raise VolumeError(f"failed to fetch token: {error.message}") from error
        life = parse_time(status["expirationTimestamp"]) - asked
        return _Token(status["token"], asked + life * _TOKEN_SHARE)


def _empty_dir(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    return folder


def host_path(source: Json) -> Path:
    """The path of a ``hostPath`` or ``local`` source, made or checked as its type says; raises VolumeError."""
    path, kind = Path(source["path"]), source.get("type") or ""
    try:
        if kind == "DirectoryOrCreate":
            path.mkdir(parents=True, exist_ok=True)
        elif kind == "FileOrCreate":
            path.touch()
    except OSError as error:
        raise VolumeError(f"hostPath {path}: {error.strerror}") from error
    checks = {"Directory": path.is_dir, "File": path.is_file, "Socket": path.is_socket}
    if not checks.get(kind, path.exists)():
        raise VolumeError(f"hostPath type check failed: {path} is not a {kind.lower() or 'file or directory'}")
    return path


def write_payload(folder: Path, payload: Payload) -> None:
    """Replace the files of a generated volume in one step, so that no reader sees half of an update.

    The kubelet's layout (pkg/volume/util/atomic_writer.go): every top-level name is a link into ``..data``, which is a
    link to a folder with the files; an update makes a new folder and moves that one link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if _read_payload(folder) == payload:
        return
    data = folder / _DATA
    old = Path(os.readlink(data)) if data.is_symlink() else None
    new = Path(tempfile.mkdtemp(prefix=now().strftime("..%Y_%m_%d_%H_%M_%S."), dir=folder))
    new.chmod(0o755)
    for name, file in payload.items():
        path = new / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)
    (folder / "..data_tmp").symlink_to(new.name)
    (folder / "..data_tmp").rename(data)
    _link_names(folder, {name.split("/")[0] for name in payload})
    if old is not None:
        shutil.rmtree(folder / old)


def _link_names(folder: Path, names: set[str]) -> None:
    for entry in folder.iterdir():
        if entry.is_symlink() and entry.name != _DATA and entry.name not in names:
            entry.unlink()
    for name in names:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{_DATA}/{name}")


def _read_payload(folder: Path) -> Payload | None:
    data = folder / _DATA
    if not data.exists():
        return None
    files = [path for path in data.resolve().rglob("*") if path.is_file()]
    return {
        str(path.relative_to(data.resolve())): VolumeFile(path.read_bytes(), path.stat().st_mode & 0o7777)
        for path in files
    }
