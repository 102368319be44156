"""kubeconfig files that act as a ServiceAccount, for any cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from finetune_sandbox import kubeconfig
from finetune_sandbox.errors import RequestFailed

_DAY_SECONDS = 86_400


def service_account_kubeconfig(
    admin: str | Path, namespace: str, name: str, path: str | Path, lifetime_seconds: int = _DAY_SECONDS
) -> Path:
    """Write a kubeconfig to ``path`` (mode 0600) that has the rights of ServiceAccount ``namespace/name``.

    The token comes from the TokenRequest API; ``admin`` is a kubeconfig that may create it.

    Raises:
        RequestFailed: the ServiceAccount does not exist or the token was refused.
    """
    token = _request_token(str(admin), namespace, name, lifetime_seconds)
    document = kubeconfig.for_token(_current_cluster(Path(admin)), f"{namespace}:{name}", token, namespace)
    target = Path(path)
    kubeconfig.write_private(target, kubeconfig.dump(document))
    return target


def _request_token(admin: str, namespace: str, name: str, lifetime_seconds: int) -> str:
    # Imported late: it takes 1.5 s, which every command of the sandbox would pay.
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException

    with config.new_client_from_config(admin) as api:
        # The typed V1TokenRequest insists on audiences, but the API server's own are wanted: the field stays out.
        body = {"spec": {"expirationSeconds": lifetime_seconds}}
        try:
            answer = client.CoreV1Api(api).create_namespaced_service_account_token(name, namespace, body)
        except ApiException as error:
            problem = f"no token for ServiceAccount {namespace}/{name}: {error.status} {error.reason}"
            raise RequestFailed(problem) from error
    return str(answer.status.token)


def _current_cluster(admin: Path) -> dict[str, Any]:
    """The cluster entry of the current context, with file references made absolute."""
    document = yaml.safe_load(admin.read_text())
    contexts = {entry["name"]: entry["context"] for entry in document["contexts"]}
    clusters = {entry["name"]: entry["cluster"] for entry in document["clusters"]}
    cluster = dict(clusters[contexts[document["current-context"]]["cluster"]])
    if "certificate-authority" in cluster:
        cluster["certificate-authority"] = str((admin.parent / cluster["certificate-authority"]).resolve())
    return cluster
