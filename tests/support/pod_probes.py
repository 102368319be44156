"""What somebody tries who runs code of their own in a training pod. This file runs there, without any other of ours.

Prints one JSON object: for each attempt what stopped it, or null when nothing did.
"""

from __future__ import annotations

import ctypes
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
PROGRESS_TOKEN = "/var/run/finetune/token/token"


def given() -> dict[str, str]:
    """What the attacker knows beforehand: addresses and names are no secrets."""
    return dict(json.loads(os.environ["PROBES"]))


def request(path: str, token: str | None, body: object = None) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = json.dumps(body).encode() if body is not None else None
    asked = urllib.request.Request(given()["server"] + path, data, headers)
    with urllib.request.urlopen(asked, context=context, timeout=20):
        pass


def progress_token() -> str:
    with open(PROGRESS_TOKEN) as file:
        return file.read()


def write(path: str) -> None:
    with open(path, "a") as file:
        file.write("mine")


def no_secret_of_others() -> None:
    """Succeeds, which is bad, when a value that belongs to others is in the environment."""
    found = [name for name, value in os.environ.items() if name != "PROBES" and given()["treasure"] in value]
    if not found:
        raise LookupError("not in the environment")


def become_root() -> None:
    os.setuid(0)
    if os.getuid() != 0 or os.access("/etc/shadow", os.W_OK):
        raise PermissionError("still nobody")


def mount() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(b"none", b"/tmp", b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount")


def s3(prefix: str = "OUTPUT_", anonymous: bool = False) -> Any:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=os.environ[f"{prefix}AWS_ENDPOINT_URL"],
        region_name=os.environ[f"{prefix}AWS_REGION"],
        aws_access_key_id=os.environ[f"{prefix}AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ[f"{prefix}AWS_SECRET_ACCESS_KEY"],
        config=Config(signature_version=UNSIGNED if anonymous else None, retries={"total_max_attempts": 1}),
    )


def store(operation: str, anonymous: bool = False, **arguments: Any) -> Callable[[], object]:
    return lambda: getattr(s3(anonymous=anonymous), operation)(Bucket=given()["bucket"], **arguments)


def buckets() -> None:
    if not s3().list_buckets()["Buckets"]:
        raise LookupError("none")


def attempts(known: Mapping[str, str]) -> dict[str, Callable[[], object]]:
    """By name. ``known`` are the addresses and names that are no secrets."""
    theirs, mine, folder = known["theirs"], known["mine"], known["folder"]
    prize, own = f"{folder}/artifacts/{theirs}/prize", f"{folder}/artifacts/{mine}"
    secrets = f"/api/v1/namespaces/{theirs}/secrets"
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "any"}}
    return {
        "read the ServiceAccount's token": lambda: open(f"{ACCOUNT}/token").read(),
        "list the folder of the ServiceAccount": lambda: os.listdir(ACCOUNT),
        "find a secret of others in the environment": no_secret_of_others,
        "API server with the progress token: secrets of others": lambda: request(secrets, progress_token()),
        "API server with the progress token: own secrets": lambda: request(
            f"/api/v1/namespaces/{mine}/secrets", progress_token()
        ),
        "API server with the progress token: jobs": lambda: request(
            f"/apis/finetune.dev/v1alpha1/namespaces/{mine}/finetunejobs", progress_token()
        ),
        "API server with the progress token: review itself": lambda: request(
            "/apis/authentication.k8s.io/v1/tokenreviews", progress_token(), review
        ),
        "API server anonymously: secrets of others": lambda: request(secrets, None),
        "API server anonymously: a pod": lambda: request(f"/api/v1/namespaces/{mine}/pods", None, {}),
        "write to the root file system": lambda: write("/etc/profile"),
        "write to the trainer's code": lambda: write(known["code"]),
        "change the run plan": lambda: write("/etc/finetune/plan.json"),
        "change the token": lambda: write(PROGRESS_TOKEN),
        "become root": become_root,
        "mount something": mount,
        "read another namespace's object": store("get_object", Key=prize),
        "read it by a way up": store("get_object", Key=f"{own}/../{theirs}/prize"),
        "ask for its size": store("head_object", Key=prize),
        "overwrite it": store("put_object", Key=prize, Body=b"mine"),
        "delete it": store("delete_object", Key=prize),
        "copy it": store("copy_object", Key=f"{own}/copy", CopySource=f"{known['bucket']}/{prize}"),
        "add a checkpoint to another namespace's job": store(
            "put_object", Key=f"{folder}/artifacts/{theirs}/job/_checkpoints/r-0/COMMITTED", Body=b"{}"
        ),
        "change a model that all read": store("put_object", Key=f"{folder}/models/tiny/config.json"),
        "list another namespace's objects": store("list_objects_v2", Prefix=f"{folder}/artifacts/{theirs}/"),
        "list the bucket": store("list_objects_v2"),
        "list all buckets": buckets,
        "make a bucket": lambda: s3().create_bucket(Bucket=f"{mine}-own"),
        "open the bucket to all": store("put_bucket_policy", Policy="{}"),
        "read without credentials": store("get_object", anonymous=True, Key=prize),
    }


def stopped_by(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    # The control: what the pod may do works, so that the rest does not fail for another reason.
    s3().put_object(Bucket=given()["bucket"], Key=f"{given()['folder']}/artifacts/{given()['mine']}/own", Body=b"x")
    print(json.dumps({name: stopped_by(attempt) for name, attempt in attempts(given()).items()}))
