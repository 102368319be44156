"""What a container's root looks like: planned here as a list of operations, carried out by ``launcher.py``.

The container sees the host's entries, read-only, so that the node's interpreter and its libraries work unchanged,
with volumes at their mount paths. A mount path that the host does not have needs a folder to be made, and nothing may
be made on the host: the deepest folder that the host does have is then replaced by an artificial one, in memory, whose
entries are the host's. The root itself is always artificial.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

EntryKind = Literal["dir", "file", "link"]
Operation = tuple[str, ...]

# Devices of every container (OCI runtime specification, "Default Devices"), without /dev/console.
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host (``source``) that the container sees at ``target``, both absolute."""

    source: str
    target: str
    read_only: bool = False
    is_file: bool = False


class HostView(Protocol):
    """What the plan needs to know of the host's file system."""

    def kind(self, path: str) -> EntryKind | None:
        """What is at ``path``, without following a link; None for nothing."""

    def entries(self, path: str) -> list[str]:
        """Names in a folder."""

    def link(self, path: str) -> str:
        """Where a symbolic link points."""

    def resolve(self, path: str) -> str:
        """The path with every symbolic link followed."""


class LocalHost:
    """The machine that this process runs on."""

    def kind(self, path: str) -> EntryKind | None:
        """What is at ``path``; None also for what this user may not see."""
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            return None
        if stat.S_ISLNK(mode):
            return "link"
        return "dir" if stat.S_ISDIR(mode) else "file"

    def entries(self, path: str) -> list[str]:
        """Names in a folder; none when this user may not list it."""
        try:
            return sorted(os.listdir(path))
        except OSError:
            return []

    def link(self, path: str) -> str:
        """Where a symbolic link points."""
        return os.readlink(path)

    def resolve(self, path: str) -> str:
        """The path with every symbolic link followed."""
        return os.path.realpath(path)


def covered(path: str, targets: Iterable[str]) -> bool:
    """Whether ``path`` is one of ``targets`` or below one."""
    return any(path == target or path.startswith(target.rstrip("/") + "/") for target in targets)


def parents(path: str) -> list[str]:
    """Every folder above ``path``, from the root down."""
    found: list[str] = []
    while path != "/":
        path = posixpath.dirname(path)
        found.append(path)
    return found[::-1]


def keep_visible(mounts: list[Mount], runtime: Iterable[str], host: HostView) -> list[Mount]:
    """``mounts`` and one more for each path of ``runtime`` that they would hide.

    The interpreter and its packages stand in for the image's: they must be there even when the pod mounts a volume at
    a folder above them, which happens as soon as this project's clone lies in ``/tmp``.
    """
    targets = {mount.target for mount in mounts}
    extra = [
        Mount(path, path, read_only=True, is_file=host.kind(path) == "file")
        for path in sorted({host.resolve(path) for path in runtime})
        if host.kind(path) and path not in targets and covered(path, targets)
    ]
    return mounts + extra


def plan_root(mounts: list[Mount], host: HostView) -> list[Operation]:
    """Operations that make the root: artificial folders with the host's entries, then the mounts, parents first.

    Of two mounts with one target the later one wins.
    """
    placed = _place(mounts, host)
    artificial = _artificial(placed, host)
    operations: list[Operation] = []
    for folder in sorted(artificial, key=_depth):
        operations += _folder(folder, artificial, placed, host)
    operations += _devices(placed, host)
    for mount in sorted(placed.values(), key=lambda mount: _depth(mount.target)):
        operations += [("file" if mount.is_file else "dir", mount.target), ("bind", mount.source, mount.target)]
    operations += [("readonly", mount.target) for mount in placed.values() if mount.read_only]
    return operations


def _depth(path: str) -> tuple[int, str]:
    return (0 if path == "/" else path.count("/"), path)


def _place(mounts: list[Mount], host: HostView) -> dict[str, Mount]:
    """Mounts by target, links of the host in the targets' parents followed as a container runtime does."""
    placed: dict[str, Mount] = {}
    for mount in sorted(mounts, key=lambda mount: _depth(posixpath.normpath(mount.target))):
        target = _follow(posixpath.normpath(mount.target), placed, host)
        placed[target] = Mount(mount.source, target, mount.read_only, mount.is_file)
    return placed


def _follow(path: str, placed: dict[str, Mount], host: HostView) -> str:
    current = "/"
    for name in path.strip("/").split("/"):
        current = posixpath.join(current, name)
        if not covered(current, placed) and host.kind(current) == "link":
            current = host.resolve(current)
    return current


def _artificial(placed: dict[str, Mount], host: HostView) -> set[str]:
    found = {"/"}
    for mount in placed.values():
        above = [target for target in placed if target != mount.target and covered(mount.target, [target])]
        if above or host.kind(mount.target) == ("file" if mount.is_file else "dir"):
            continue
        existing = [folder for folder in parents(mount.target) if host.kind(folder) == "dir"]
        found.update(existing)
    return {folder for folder in found if not covered(folder, ["/dev", "/proc"])}


def _folder(folder: str, artificial: set[str], placed: dict[str, Mount], host: HostView) -> list[Operation]:
    """One artificial folder and the host's entries in it, but for those that are made or mounted otherwise."""
    operations: list[Operation] = [("dir", folder)]
    for name in host.entries(folder):
        path = posixpath.join(folder, name)
        if path in artificial or path in placed or path in ("/dev", "/proc"):
            continue
        kind = host.kind(path)
        if kind == "link":
            operations.append(("link", path, host.link(path)))
        elif kind:
            operations += [(kind, path), ("host", path)]
    return operations


def _devices(placed: dict[str, Mount], host: HostView) -> list[Operation]:
    operations: list[Operation] = [("dir", "/proc"), ("proc", "/proc"), ("dir", "/dev")]
    for path in (f"/dev/{name}" for name in DEVICES):
        kind = host.kind(path)
        if kind == "link":
            operations.append(("link", path, host.link(path)))
        elif kind:
            operations += [(kind, path), ("device", path)]
    operations += [("link", f"/dev/{name}", destination) for name, destination in _DEVICE_LINKS.items()]
    operations.append(("dir", SHARED_MEMORY))
    if SHARED_MEMORY not in placed:
        operations.append(("tmpfs", SHARED_MEMORY, "mode=1777"))
    return operations
