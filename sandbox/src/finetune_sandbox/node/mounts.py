"""Where a container sees its pod's volumes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from finetune_sandbox.node.environment import expand
from finetune_sandbox.node.errors import ContainerCreateError
from finetune_sandbox.node.kube import Json
from finetune_sandbox.node.payload import GENERATED
from finetune_sandbox.node.rootfs import Mount


def volume_mounts(
    container: Json, volumes: list[Json], paths: Mapping[str, Path], environment: Mapping[str, str]
) -> list[Mount]:
    """A container's ``volumeMounts``; sub-paths that do not exist are made. Raises ContainerCreateError."""
    by_name = {volume["name"]: volume for volume in volumes}
    return [
        _mount(mount, by_name[mount["name"]], paths[mount["name"]], environment)
        for mount in container.get("volumeMounts") or []
    ]


def _mount(mount: Json, volume: Json, path: Path, environment: Mapping[str, str]) -> Mount:
    source = _sub_path(path, mount.get("subPath") or expand(mount.get("subPathExpr") or "", environment), mount)
    claim = volume.get("persistentVolumeClaim") or {}
    # The kubelet mounts what it generates read-only, whatever the pod says.
    read_only = bool(mount.get("readOnly") or claim.get("readOnly")) or any(kind in volume for kind in GENERATED)
    target = mount["mountPath"]
    return Mount(str(source), target if target.startswith("/") else f"/{target}", read_only, source.is_file())


def _sub_path(path: Path, relative: str, mount: Json) -> Path:
    """The part of a volume that is mounted, links followed but never out of the volume."""
    if not relative:
        return path
    base = os.path.realpath(path)
    source = os.path.realpath(os.path.join(base, relative))
    if source != base and not source.startswith(base + os.sep):
        raise ContainerCreateError(f'failed to prepare subPath for volumeMount "{mount["name"]}": it leaves the volume')
    if not os.path.exists(source):
        os.makedirs(source)
    return Path(source)
