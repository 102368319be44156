"""A container's identity and privileges, from the security contexts of pod and container (no I/O)."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_sandbox.node.errors import ContainerConfigError
from finetune_sandbox.node.kube import Json

# Stands for the user of an image that does not run as root ("nonroot" of the distroless images).
NON_ROOT = 65532


@dataclass(frozen=True)
class Privileges:
    """Who a container's process is, inside, and what it may not do."""

    uid: int
    gid: int
    read_only_root: bool
    no_new_privileges: bool
    drop_all_capabilities: bool


def privileges(pod: Json, container: Json) -> Privileges:
    """What applies to a container, whose own settings come before its pod's; raises ContainerConfigError."""
    own = container.get("securityContext") or {}
    merged = {**(pod["spec"].get("securityContext") or {}), **own}
    non_root = bool(merged.get("runAsNonRoot"))
    uid = merged.get("runAsUser", NON_ROOT if non_root else 0)
    if non_root and uid == 0:
        raise ContainerConfigError(
            "container's runAsUser breaks non-root policy "
            f'(pod: "{pod["metadata"]["name"]}_{pod["metadata"]["namespace"]}", container: {container["name"]})'
        )
    dropped = (own.get("capabilities") or {}).get("drop") or []
    return Privileges(
        uid=uid,
        gid=merged.get("runAsGroup", NON_ROOT if non_root and "runAsUser" not in merged else 0),
        read_only_root=bool(own.get("readOnlyRootFilesystem")),
        no_new_privileges=own.get("allowPrivilegeEscalation") is False,
        drop_all_capabilities="ALL" in dropped,
    )
