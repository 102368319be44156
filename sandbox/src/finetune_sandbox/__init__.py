"""A whole cluster in one process tree on one machine: control plane, process node, object store."""

from finetune_sandbox.api import Sandbox
from finetune_sandbox.errors import ControlPlaneUnavailable, SandboxError
from finetune_sandbox.service_account import service_account_kubeconfig

__all__ = ["ControlPlaneUnavailable", "Sandbox", "SandboxError", "service_account_kubeconfig"]
