"""What an answer of the API server means for the person at the terminal: one sentence and the remedy. Pure."""

from __future__ import annotations

import json

from finetune_api import KIND
from finetune_cli.cluster.calls import JOBS, Call
from finetune_cli.documents import Object, object_at, objects_at, text_at
from finetune_cli.errors import (
    CliError,
    ClusterError,
    HiccupError,
    MissingObjectError,
    RefusedManifestError,
)

_INSTALL = "install it: kubectl apply --server-side -k crds/ (docs/install.md)"
_UNTYPED = "failed to create typed patch object"
_BUSY = frozenset({408, 429, 500, 502, 503, 504})


def refusal(call: Call, status: int, body: str) -> CliError:
    """The error that an answer other than success stands for."""
    answer = _status_object(body)
    message = text_at(answer, "message") or body.strip()[:512] or f"HTTP {status}"
    match status:
        case 401:
            return ClusterError(
                "the cluster does not accept your credentials; log in again, or choose other ones with --context"
            )
        case 403:
            return ClusterError(
                f"you may not {call.verb} {call.plural} {call.place}: {message}. Ask an administrator of the cluster "
                f"for that right, or choose another --namespace or --context"
            )
        case 404:
            return _missing(call, answer)
        case 409:
            return ClusterError(_conflict(message, answer))
        case 400 if call.subresource == "log":
            return MissingObjectError(f"there is no log yet: {message}")
        case 500 if _UNTYPED in message:
            # What a server-side apply cannot read by the schema, the API server calls an error of its own.
            return RefusedManifestError(f"the API server refuses it: {message.rpartition('): ')[2]}")
        case 400 | 422:
            return RefusedManifestError(f"the API server refuses it: {message}")
    kind = HiccupError if status in _BUSY else ClusterError
    return kind(f"the API server answered with {status}: {message}")


def _status_object(body: str) -> Object:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}  # A proxy's error page, or the plain text of an unknown path, is no Status object.
    return answer if isinstance(answer, dict) else {}


def _missing(call: Call, answer: Object) -> CliError:
    kind, name = text_at(answer, "details", "kind"), text_at(answer, "details", "name")
    if kind == "namespaces":
        return MissingObjectError(f"there is no namespace {name!r}; create it: kubectl create namespace {name}")
    if call.plural == JOBS and not name:
        return ClusterError(f"this cluster does not know the kind {KIND}; {_INSTALL}")
    if call.plural == JOBS:
        return MissingObjectError(
            f"there is no {KIND} {call.name!r} {call.place}; kubectl finetune list -A shows the jobs of all namespaces"
        )
    return MissingObjectError(f"{call.plural} {call.name!r} is not there any more {call.place}".strip())


def _conflict(message: str, answer: Object) -> str:
    owners = sorted({text_at(cause, "message") for cause in objects_at(object_at(answer, "details"), "causes")} - {""})
    if owners:
        said = "; ".join(owners)
        return f"{said}: change it where it is managed, or take it over with --force-conflicts"
    return f"{message}; run the command again"
