"""The control plane's binaries: at hand already, compiled before, or compiled now."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from finetune_sandbox.compiler import Program
from finetune_sandbox.errors import ControlPlaneUnavailable, ProgramUnavailable
from finetune_sandbox.layout import default_cache_dir
from finetune_sandbox.programs import Source, compiled, missing

BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
KUBERNETES_VERSION = "v1.36.3"


def obtain(cache: Path | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """A folder that holds all of ``BINARIES``, compiling them unless that was done before.

    Raises:
        ControlPlaneUnavailable: there is no way to get them on this machine.
        CompileFailed: the compiler failed.
    """
    variables = os.environ if environment is None else environment
    assets = _assets(variables)
    if assets is not None:
        return assets
    try:
        return compiled(CONTROL_PLANE, cache or default_cache_dir(variables))
    except ProgramUnavailable as error:
        raise ControlPlaneUnavailable(str(error)) from error


def missing_from(folder: Path) -> list[str]:
    """Which of ``BINARIES`` are not executable files of ``folder``."""
    return missing(BINARIES, folder)


def _assets(environment: Mapping[str, str]) -> Path | None:
    """The folder of the standard variable KUBEBUILDER_ASSETS, when it has everything."""
    value = environment.get("KUBEBUILDER_ASSETS")
    if not value:
        return None
    folder = Path(value).absolute()
    missing = missing_from(folder)
    if not missing:
        return folder
    print(
        f"KUBEBUILDER_ASSETS={value} has no {', '.join(missing)}: using the sandbox's own control plane",
        file=sys.stderr,
    )
    return None


def _stamps(version: str) -> dict[str, str]:
    """Linker variables by which the components know the version of Kubernetes (``v1.36.3``) that they are."""
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return {f"k8s.io/component-base/version.{name}": value for name, value in values.items()}


CONTROL_PLANE = Source(
    folder="controlplane",
    # The tag as in Kubernetes' own build: without it the linker cannot drop unused methods.
    program=Program(
        "the control plane", "6 minutes on 2 cores", stamps=_stamps(KUBERNETES_VERSION), tags="grpcnotrace"
    ),
    commands=BINARIES,
)
