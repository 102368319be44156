"""What the process node raises on purpose."""

from __future__ import annotations

from finetune_sandbox.errors import SandboxError


class NodeError(SandboxError):
    """Base of every error of the process node."""


class InvalidNodeConfig(NodeError):
    """The configuration file is missing, malformed or incomplete."""

    exit_code = 2


class NamespacesRefused(NodeError):
    """The kernel does not let this user make the namespaces that containers live in."""

    exit_code = 77


class KubeError(NodeError):
    """A request to the API server did not succeed."""


class KubeUnavailable(KubeError):
    """The API server could not be reached, or the connection broke."""


class KubeRefused(KubeError):
    """The API server answered with an error status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message


class FaultRefused(NodeError):
    """A fault cannot be injected: there is no such pod, node or process."""


class ContainerConfigError(NodeError):
    """A container cannot be configured now; becomes the waiting state CreateContainerConfigError and is retried."""

    waiting_reason = "CreateContainerConfigError"


class ContainerCreateError(ContainerConfigError):
    """A container cannot be created as specified; becomes the waiting state CreateContainerError."""

    waiting_reason = "CreateContainerError"


class VolumeError(NodeError):
    """A volume cannot be made ready now; becomes a FailedMount event and is retried."""
