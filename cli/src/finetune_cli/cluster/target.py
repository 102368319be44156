"""Which cluster and namespace a command means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What the options say; None leaves the choice to the kubeconfig.

    Attributes:
        kubeconfig: path of a kubeconfig, in place of KUBECONFIG and the usual file.
        context: name of a context in it.
        namespace: namespace of the jobs.
    """

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
