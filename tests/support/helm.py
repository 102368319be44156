"""The real ``helm``, and the values with which the chart runs on a sandbox."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from finetune_sandbox import helm
from support.clusters import PROJECT

CHART = PROJECT / "charts" / "finetune-operator"
RELEASE, NAMESPACE = "finetune-operator", "finetune-system"
# What a released chart has as its defaults. The sandbox runs no images.
IMAGES = ("image.repository=example.com/operator", "trainer.image.repository=example.com/trainer")
# Pods of the sandbox share one network: each server listens on its own pod's address.
ON_SANDBOX = (*IMAGES, "bindAddress=$(POD_IP)", "logFormat=plain")

Object = dict[str, Any]


@cache
def command() -> Path:
    """The ``helm`` command of this machine."""
    return helm.obtain()


def settings(values: Sequence[str]) -> list[str]:
    """Options that set values."""
    return [word for value in values for word in ("--set", value)]


def run(*arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    """One helm command, whatever comes of it; without a kubeconfig it knows no cluster."""
    environment = os.environ | {"KUBECONFIG": str(kubeconfig or os.devnull)}
    return subprocess.run([command(), *arguments], capture_output=True, text=True, env=environment, timeout=300)


def rendered(*values: str, name: str = RELEASE, namespace: str = NAMESPACE) -> list[Object]:
    """Every object that the chart makes of some values."""
    result = run("template", name, str(CHART), "--namespace", namespace, *settings((*IMAGES, *values)))
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


@dataclass(frozen=True)
class Release:
    """A release of the chart on a cluster."""

    kubeconfig: Path
    name: str = RELEASE
    namespace: str = NAMESPACE

    def helm(self, *arguments: str) -> str:
        """Output of a helm command that must succeed."""
        result = run(*arguments, "--namespace", self.namespace, kubeconfig=self.kubeconfig)
        assert result.returncode == 0, f"helm {' '.join(arguments)}: {result.stderr}"
        return result.stdout

    def install(self, *values: str, chart: Path = CHART, options: Sequence[str] = ()) -> str:
        """Installs the chart, or upgrades the release that there is, and waits until its pod is ready."""
        wait = ("--wait", "--timeout", "2m")
        flags = ("upgrade", "--install", "--create-namespace", *wait, *options, *settings((*ON_SANDBOX, *values)))
        return self.helm(*flags, self.name, str(chart))
