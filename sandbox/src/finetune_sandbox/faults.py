"""Faults of a running sandbox: processes that die or freeze, pods that are evicted, nodes that are lost or full.

Asked of the node agent over its HTTPS endpoint, as the API server does.
"""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune_sandbox.errors import RequestFailed
from finetune_sandbox.layout import Layout
from finetune_sandbox.lifecycle import load
from finetune_sandbox.parts import KUBELET_PORT
from finetune_sandbox.ports import LOOPBACK

FAULTS_PATH = "/faults"
# What may be done to some of a pod's processes; the rest is done to all.
PROCESS_FAULTS = ("kill", "freeze", "thaw")
POD_FAULTS = {
    "kill": "kill a pod's processes (SIGKILL)",
    "freeze": "stop a pod's processes (SIGSTOP)",
    "thaw": "let frozen processes go on (SIGCONT)",
    "evict": "end a pod as a kubelet does whose node runs out of memory",
}
NODE_FAULTS = {
    "drain": "cordon a node and evict its pods, as kubectl drain does",
    "lose": "have a node vanish: its processes end, and nobody hears of it again",
    "fill": "fill a node's disk: it says so, and evicts its pods",
    "restore": "have a node that was drained, lost or filled work again",
}
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: one of ``POD_FAULTS`` or ``NODE_FAULTS``.
        name: of the pod or node.
        namespace: of the pod.
        process: of a pod, only processes whose command line has this text; empty for all.
    """

    kind: str
    name: str
    namespace: str = "default"
    process: str = ""


def inject(state_dir: Path, fault: Fault) -> str:
    """Injects a fault into the sandbox of a state directory; returns what was done, in words.

    Raises:
        NotRunning: there is no sandbox.
        RequestFailed: there is no such pod, node or process, or the agent does not answer.
    """
    state, pki = load(state_dir), Layout(state_dir).pki
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "apiserver-kubelet-client.crt", pki / "apiserver-kubelet-client.key")
    port = state.ports[KUBELET_PORT]
    connection = http.client.HTTPSConnection(LOOPBACK, port, timeout=_TIMEOUT_SECONDS, context=context)
    try:
        connection.request("POST", FAULTS_PATH, json.dumps(asdict(fault)), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise RequestFailed(f"the node agent does not answer: {error!r}") from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise RequestFailed(text)
    return text
