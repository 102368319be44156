"""The sandbox as an object, for tests and scripts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from finetune_sandbox import faults, lifecycle, parts, processes
from finetune_sandbox.layout import Layout, default_state_dir
from finetune_sandbox.shape import Shape
from finetune_sandbox.state import State


@dataclass(frozen=True)
class Sandbox:
    """A sandbox that was up when this object was made. Leaving its ``with`` block takes it down."""

    state_dir: Path
    state: State

    @classmethod
    def up(
        cls,
        state_dir: str | Path | None = None,
        *,
        nodes: int = 1,
        gpus_per_node: int = 0,
        cpus_per_node: str = "64",
        memory_per_node: str = "64Gi",
        simulate: bool = False,
        preload: str = "",
        attached: bool = False,
    ) -> Self:
        """Start a sandbox and return when it is ready; raises what ``lifecycle.up`` raises.

        One that is attached goes down with this process, whatever ends it.
        """
        root = _absolute(state_dir)
        shape = Shape(nodes, gpus_per_node, cpus_per_node, memory_per_node, simulate, preload)
        return cls(root, lifecycle.up(root, shape, processes.identify(os.getpid()) if attached else None))

    @classmethod
    def open(cls, state_dir: str | Path | None = None) -> Self:
        """The sandbox that runs in ``state_dir`` already.

        Raises:
            NotRunning: there is none.
        """
        root = _absolute(state_dir)
        return cls(root, lifecycle.load(root))

    @property
    def kubeconfig(self) -> Path:
        """The cluster administrator's kubeconfig."""
        return Layout(self.state_dir).kubeconfig

    @property
    def s3_endpoint(self) -> str:
        """The object store's URL."""
        return parts.s3_url(self.state.ports)

    @property
    def bucket(self) -> str:
        """The bucket that every sandbox has."""
        return parts.BUCKET

    def environment(self) -> dict[str, str]:
        """What kubectl, boto3 and the project's own programs need to find this sandbox."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "AWS_ENDPOINT_URL": self.s3_endpoint,
            "AWS_ACCESS_KEY_ID": self.state.access_key,
            "AWS_SECRET_ACCESS_KEY": self.state.secret_key,
            "AWS_REGION": parts.REGION,
            # botocore reads this one only.
            "AWS_DEFAULT_REGION": parts.REGION,
            "FINETUNE_SANDBOX_BUCKET": self.bucket,
        }

    def fault(self, kind: str, name: str, *, namespace: str = "default", process: str = "") -> str:
        """Inject a fault (see ``finetune_sandbox.faults``); returns what was done, in words.

        Raises:
            RequestFailed: there is no such fault, pod, node or process.
        """
        return faults.inject(self.state_dir, faults.Fault(kind, name, namespace, process))

    def down(self, *, keep_logs: bool = False) -> None:
        """End every process and remove the files."""
        lifecycle.down(self.state_dir, keep_logs=keep_logs)

    def __enter__(self) -> Self:
        """Nothing more to do: it is up."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it down."""
        self.down()


def _absolute(state_dir: str | Path | None) -> Path:
    return default_state_dir() if state_dir is None else Path(state_dir).expanduser().absolute()
