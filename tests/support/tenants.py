"""A tenant of one namespace: what they hold on a cluster and in the store, and calls that they may try."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import yaml

from finetune_sandbox.errors import RequestFailed
from support.operated import SECRET, Object, Platform, eventually

_UNVERIFIED = ssl.create_default_context()
_UNVERIFIED.check_hostname, _UNVERIFIED.verify_mode = False, ssl.CERT_NONE
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


@dataclass(frozen=True)
class Answer:
    """A server's answer to one request."""

    status: int
    text: str


def call(
    url: str, method: str = "GET", token: str | None = None, body: bytes | None = None, kind: str = "application/json"
) -> Answer:
    """One request, whatever comes of it. Certificates are not checked: the caller is the attacker."""
    headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, context=_UNVERIFIED, timeout=30) as answer:
            return Answer(answer.status, answer.read().decode(errors="replace"))
    except urllib.error.HTTPError as refused:
        with refused:
            return Answer(refused.code, refused.read().decode(errors="replace"))


def api_server(kubeconfig: Path) -> str:
    """URL of a cluster's API server."""
    return str(yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"])


def new_token(platform: Platform, namespace: str, account: str, audience: str = "", pod: Object | None = None) -> str:
    """A token of a ServiceAccount, bound to a pod where one is given, as the kubelet asks for it."""
    options = ["--audience", audience] if audience else []
    if pod:
        options += ["--bound-object-kind", "Pod", "--bound-object-name", pod["metadata"]["name"]]
    return platform.kubectl("create", "token", account, "-n", namespace, *options).strip()


def store_policy(bucket: str, writes: str, reads: tuple[str, ...]) -> Object:
    """The rights that docs/security.md recommends: all below one prefix, reading below others."""
    arn = "arn:aws:s3:::"
    prefixes = [f"{prefix}/*" for prefix in (writes, *reads)]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                # Without s3:ListMultipartUploadParts, which SeaweedFS does not know as an action.
                "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
                "Resource": [f"{arn}{bucket}/{writes}/*"],
            },
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"{arn}{bucket}/{path}/*" for path in reads]},
            {
                "Effect": "Allow",
                "Action": ["s3:List*"],
                "Resource": [f"{arn}{bucket}"],
                "Condition": {"StringLike": {"s3:prefix": prefixes}},
            },
        ],
    }


def limited_keys(platform: Platform, user: str, policy: Object) -> dict[str, str]:
    """Access keys of a new user of the store who has these rights only."""
    iam = boto3.client(
        "iam",
        endpoint_url=platform.store["AWS_ENDPOINT_URL"],
        aws_access_key_id=platform.store["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=platform.store["AWS_SECRET_ACCESS_KEY"],
        region_name=platform.store["AWS_REGION"],
    )
    iam.create_user(UserName=user)
    iam.put_user_policy(UserName=user, PolicyName="own-prefix", PolicyDocument=json.dumps(policy))
    made = iam.create_access_key(UserName=user)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}


def secret(namespace: str, name: str, values: dict[str, str]) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


def limited_namespace(platform: Platform) -> tuple[str, dict[str, str]]:
    """A namespace whose Secret opens its own prefix of the bucket only, and what all read.

    Returns:
        The namespace, and the keys in its Secret.
    """
    namespace = platform.new_namespace()
    policy = store_policy(
        platform.bucket,
        f"{platform.folder}/artifacts/{namespace}",
        (f"{platform.folder}/models", f"{platform.folder}/data"),
    )
    keys = limited_keys(platform, namespace, policy)
    shared = {name: platform.store[name] for name in ("AWS_ENDPOINT_URL", "AWS_REGION")}
    platform.kubectl("delete", "secret", SECRET, "-n", namespace)
    platform.kubectl("create", "-f", "-", stdin=yaml.safe_dump(secret(namespace, SECRET, keys | shared)))
    return namespace, keys


def make_editor(platform: Platform, namespace: str, roles: list[Object]) -> None:
    """Gives the ServiceAccount ``tenant`` the role ``edit`` in a namespace, and ``edit`` the chart's ``roles``."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tenant", "namespace": namespace}}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "tenant", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": namespace}],
    }
    platform.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([*roles, account, binding]))

    def allowed() -> bool:
        user = f"--as=system:serviceaccount:{namespace}:tenant"
        try:
            platform.kubectl("auth", "can-i", "create", "finetunejobs.finetune.dev", "-n", namespace, user)
        except RequestFailed:
            return False
        return True

    # The controller that adds roles to `edit` takes a moment.
    eventually(allowed, 60)


def without_signature(token: str, **claims: Any) -> str:
    """A token with other claims and the signature of the first: what somebody does who hopes that nobody checks."""
    header, payload, signature = token.split(".")
    content = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))) | claims
    forged = base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()
    return f"{header}.{forged}.{signature}"
