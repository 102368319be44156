"""Whether this machine lets the agent make containers, tried before anything else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from finetune_sandbox.node.errors import NamespacesRefused
from finetune_sandbox.node.process import LaunchSpec, launch
from finetune_sandbox.node.rootfs import LocalHost, plan_root

# Each setting that can forbid user namespaces, the value that forbids them, and the command that allows them.
_SETTINGS = (
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
_INSIDE_CONTAINER = (
    "inside a container, let it make namespaces (docker run --privileged, "
    "or --security-opt seccomp=unconfined --security-opt apparmor=unconfined --cap-add SYS_ADMIN)"
)


def remedies(settings: dict[str, str]) -> list[str]:
    """What an administrator can do, given the content of those of the settings' files that exist."""
    found = [f"run `{command}` as root" for path, forbidding, command in _SETTINGS if settings.get(path) == forbidding]
    return found or [_INSIDE_CONTAINER, "Linux must be 5.12 or newer"]


async def check_namespaces(folder: Path) -> None:
    """Start a container that does nothing; raises NamespacesRefused with what to change."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        spec = LaunchSpec(["true"], {"PATH": os.defpath}, plan_root([], LocalHost()), staging, "probe")
        errors: list[bytes] = []
        status = await launch(spec, errors.append, errors.append).exited
    if status.code == 0:
        return
    reason = status.start_error or b"".join(errors).decode(errors="replace").strip() or f"exit code {status.code}"
    present = {path: Path(path).read_text().strip() for path, _, _ in _SETTINGS if os.path.exists(path)}
    raise NamespacesRefused(
        f"this user may not make the namespaces that the sandbox's pods run in ({reason}); "
        f"to allow it: {'; or '.join(remedies(present))}"
    )
