"""Turns a container of a pod into a running process."""

from __future__ import annotations

import dataclasses
import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune_sandbox.node.environment import Setting, build_command, build_environment
from finetune_sandbox.node.hosts import hostname
from finetune_sandbox.node.kube import Json
from finetune_sandbox.node.logs import LogQuery, LogWriter, read_log
from finetune_sandbox.node.machine import Machine
from finetune_sandbox.node.mounts import volume_mounts
from finetune_sandbox.node.process import ContainerProcess, LaunchSpec, launch
from finetune_sandbox.node.rootfs import LocalHost, Mount, keep_visible, plan_root
from finetune_sandbox.node.security import Privileges, privileges

# Kubernetes' limits on termination messages (bytes, lines).
LONGEST_MESSAGE = 4096
_FALLBACK_BYTES, _FALLBACK_LINES = 2048, 80


@dataclass(frozen=True)
class ContainerFolder:
    """Files of one run of a container."""

    path: Path

    @property
    def message(self) -> Path:
        """The termination message."""
        return self.path / "termination-message"

    def scratch(self, target: str) -> Path:
        """What the container sees at ``target``, a folder that is empty at first."""
        return self.path / "scratch" / target.strip("/").replace("/", "-")

    def make(self) -> None:
        """Create the folder and an empty message that any user may write."""
        (self.path / "root").mkdir(parents=True, exist_ok=True)
        self.message.write_bytes(b"")
        self.message.chmod(0o666)


@dataclass(frozen=True)
class ContainerPlan:
    """Everything that one start of a container takes, beside the container itself."""

    pod: Json
    machine: Machine
    setting: Setting
    volumes: dict[str, Path]
    hosts_file: Path
    folder: ContainerFolder
    log: Path


async def start_container(container: Json, plan: ContainerPlan, log_changed: Callable[[], None]) -> ContainerProcess:
    """Start the process; raises ContainerConfigError when the container cannot be configured."""
    allowed = privileges(plan.pod, container)
    environment = {"HOSTNAME": hostname(plan.pod), **build_environment(container, plan.setting)}
    command = build_command(container, environment)
    plan.folder.make()
    mounts = _mounts(container, plan, allowed, environment)
    host = LocalHost()
    spec = LaunchSpec(
        command=command,
        environment=environment,
        operations=plan_root(keep_visible(mounts, plan.machine.runtime, host), host),
        staging=str(plan.folder.path / "root"),
        hostname=hostname(plan.pod),
        workdir=container.get("workingDir") or "/",
        **dataclasses.asdict(allowed),
    )
    warm = plan.machine.warm
    forked_from = warm if warm and await warm.serves(command, environment) else None
    log = LogWriter(plan.log, log_changed)
    process = launch(spec, lambda data: log.write("stdout", data), lambda data: log.write("stderr", data), forked_from)
    process.exited.add_done_callback(lambda _: log.close())
    return process


def _mounts(container: Json, plan: ContainerPlan, allowed: Privileges, environment: dict[str, str]) -> list[Mount]:
    message = container.get("terminationMessagePath") or "/dev/termination-log"
    mounts = [_scratch(plan.folder, path, allowed.read_only_root) for path in plan.machine.scratch]
    mounts += [_scratch(plan.folder, path, True) for path in plan.machine.hidden]
    mounts += [
        Mount(str(plan.hosts_file), "/etc/hosts", is_file=True),
        Mount(str(_users_file(plan, allowed)), "/etc/passwd", read_only=True, is_file=True),
        Mount(str(plan.folder.message), message, is_file=True),
    ]
    return mounts + volume_mounts(container, plan.pod["spec"].get("volumes") or [], plan.volumes, environment)


def _scratch(folder: ContainerFolder, target: str, read_only: bool) -> Mount:
    source = folder.scratch(target)
    source.mkdir(parents=True, exist_ok=True)
    source.chmod(0o1777)
    return Mount(str(source), target, read_only)


def _users_file(plan: ContainerPlan, allowed: Privileges) -> Path:
    """/etc/passwd with the container's user, whom images know by name and whom libraries look up."""
    known = [user for user in pwd.getpwall() if user.pw_uid != allowed.uid]
    name = "root" if allowed.uid == 0 else "nonroot"
    home = plan.machine.environment["HOME"]
    lines = [f"{name}:x:{allowed.uid}:{allowed.gid}:{name}:{home}:/bin/sh"]
    lines += [f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}::{user.pw_dir}:{user.pw_shell}" for user in known]
    path = plan.folder.path / "passwd"
    path.write_text("\n".join(lines) + "\n")
    return path


def termination_message(container: Json, folder: ContainerFolder, log: Path, exit_code: int) -> str:
    """What the container left as its message, or the end of its log where its policy says so."""
    with folder.message.open("rb") as file:
        message = file.read(LONGEST_MESSAGE)
    fallback = container.get("terminationMessagePolicy") == "FallbackToLogsOnError"
    if not message and fallback and exit_code and os.path.exists(log):
        message = _log_end(log)
    return message.decode(errors="replace")


def _log_end(log: Path) -> bytes:
    return read_log(log.read_bytes(), LogQuery(tail_lines=_FALLBACK_LINES))[-_FALLBACK_BYTES:]
