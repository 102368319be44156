"""The /etc/hosts files of the node's pods, kept up to date while they run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from finetune_sandbox.node.hosts import PodName, hosts_file
from finetune_sandbox.node.kube import Json


@dataclass(frozen=True)
class _Entry:
    name: PodName
    path: Path
    aliases: list[Json]


class HostsFiles:
    """One file for each pod, written again when a pod of its namespace that others may name comes or goes."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._services: list[str] = []

    def add(self, uid: str, name: PodName, path: Path, aliases: list[Json]) -> None:
        """A pod comes: write its file and tell the others."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._entries[uid] = _Entry(name, path, aliases)
        self._write(self._entries[uid])
        self._tell(name)

    def remove(self, uid: str) -> None:
        """A pod goes: the others forget its name."""
        entry = self._entries.pop(uid, None)
        if entry:
            self._tell(entry.name)

    def set_services(self, lines: list[str]) -> None:
        """What Services resolve to; every pod is told when that changed."""
        if lines == self._services:
            return
        self._services = lines
        for entry in self._entries.values():
            if entry.path.exists():
                self._write(entry)

    def _tell(self, name: PodName) -> None:
        if not name.subdomain:
            return
        for entry in self._entries.values():
            if entry.name.namespace == name.namespace and entry.name != name and entry.path.exists():
                self._write(entry)

    def _write(self, entry: _Entry) -> None:
        """In place, because the file is mounted; longer content first, so that no reader misses a line."""
        others = [other.name for other in self._entries.values()]
        content = hosts_file(entry.name, others, entry.aliases, self._services).encode()
        descriptor = os.open(entry.path, os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            os.pwrite(descriptor, content, 0)
            os.truncate(descriptor, len(content))
        finally:
            os.close(descriptor)
