"""The kinds of Argo CD and Flux: their CRDs, from the Go modules that their projects publish."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from finetune_sandbox import modules
from finetune_sandbox.layout import default_cache_dir
from support.clusters import Cluster

Object = dict[str, Any]
# What these modules ask for, in their go.mod.
_GO = (1, 26)


@dataclass(frozen=True)
class Pinned:
    """A module, its version and its checksum as a go.sum has it, and the CRD in it."""

    module: str
    version: str
    checksum: str
    file: str


PINNED = (
    Pinned(
        "github.com/argoproj/argo-cd/v3",
        "v3.5.7",
        "h1:Xm1BF+I5OgDKUG3SDK49vn2/Y5AMyaNVko+/JT08gj0=",
        "manifests/crds/application-crd.yaml",
    ),
    Pinned(
        "github.com/fluxcd/kustomize-controller",
        "v1.9.6",
        "h1:XB+G3A0mky0j5uVHZWv4oSlS2RvZBoNIUhstIvY0JKE=",
        "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml",
    ),
    Pinned(
        "github.com/fluxcd/source-controller",
        "v1.9.6",
        "h1:nG534/bI6nVpyHra7ONAk6xDB3xPsVT+EOLHZHXPrrc=",
        "config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml",
    ),
)


@cache
def definitions() -> tuple[Object, ...]:
    """The pinned CRDs; their modules are fetched once per machine, Argo CD's of 100 MB."""
    return tuple(
        yaml.load(_file(pinned).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) for pinned in PINNED
    )


def _file(pinned: Pinned) -> Path:
    name = f"{pinned.module}@{pinned.version}"
    # Outside of any Go module: within one, the go.mod of everything that these need would be fetched too.
    with tempfile.TemporaryDirectory() as empty:
        found = modules.fetch(name, name, _GO, Path(empty), default_cache_dir())
    assert found.checksum == pinned.checksum, f"{name} is not what was pinned"
    return found.folder / pinned.file


def groups() -> set[str]:
    """The API groups of these kinds."""
    return {str(definition["spec"]["group"]) for definition in definitions()}


@contextmanager
def served(cluster: Cluster) -> Iterator[None]:
    """While it lasts, the cluster has these kinds. Those that it had before are left as they are."""
    known = cluster.kubectl("get", "crd", "-o", "name")
    missing = [crd for crd in definitions() if f"/{crd['metadata']['name']}\n" not in known]
    for definition in missing:
        cluster.apply(definition)
    names = [f"crd/{definition['metadata']['name']}" for definition in missing]
    try:
        if names:
            cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
        yield
    finally:
        if names:
            cluster.kubectl("delete", "--wait=false", *names)
