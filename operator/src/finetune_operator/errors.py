"""Errors of the operator, all under :class:`OperatorError`.

OperatorError
├── ConfigurationError
└── KubeError
    ├── NotFound
    ├── AlreadyExists
    ├── Conflict
    └── NamespaceTerminating
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of every error that the operator raises."""


class ConfigurationError(OperatorError):
    """The operator was started with settings that cannot work."""


class KubeError(OperatorError):
    """The Kubernetes API refused a call.

    Attributes:
        status: HTTP status, 0 when no answer came.
        reason: machine-readable reason of the API server, such as NotFound.
        asked_seconds: what it asked to wait before the next try; 0 for nothing.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{reason or status}: {message}")
        self.status = status
        self.reason = reason
        self.asked_seconds = 0.0


class NotFound(KubeError):
    """The object does not exist."""


class NamespaceTerminating(KubeError):
    """Nothing can be created in a namespace that is being deleted."""


class AlreadyExists(KubeError):
    """An object of that name exists already."""


class Conflict(KubeError):
    """The object changed meanwhile, or is another one of the same name."""
