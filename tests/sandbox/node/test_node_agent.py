"""The agent as a program: what it says when it cannot run, and that it ends when it is told to."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_sandbox.pki import issue

AGENT = [sys.executable, "-m", "finetune_sandbox.node", "--config"]


def configure(folder: Path, **changes: Any) -> Path:
    """A configuration whose API server does not exist."""
    for name, content in issue().files().items():
        (folder / name).write_bytes(content)
    certificate, key = str(folder / "apiserver-kubelet-client.crt"), str(folder / "apiserver-kubelet-client.key")
    kubeconfig = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [
            {"name": "c", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority": str(folder / "ca.crt")}}
        ],
        "users": [{"name": "u", "user": {"client-certificate": certificate, "client-key": key}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    document = {
        "kubeconfig": str(folder / "kubeconfig"),
        "stateDir": str(folder / "pods"),
        "logDir": str(folder / "logs"),
        "serving": {"certificate": str(folder / "kubelet.crt"), "key": str(folder / "kubelet.key")},
        "clientCA": str(folder / "ca.crt"),
        "port": 0,
        "nodes": [{"name": "sandbox-0", "cpu": "8", "memory": "8Gi", "gpus": 0}],
        "simulate": False,
        "preload": "",
        "clusterCA": str(folder / "ca.crt"),
        "apiServer": "https://127.0.0.1:1",
        "readyFile": str(folder / "ready"),
    }
    path = folder / "node.json"
    path.write_text(json.dumps(document | changes))
    return path


def test_refused_namespaces_are_explained(tmp_path: Path) -> None:
    """The limit is set in a user namespace of the test's own, where it holds for nobody else."""
    unshare = shutil.which("unshare")
    assert unshare, "util-linux is not installed"
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    line = [unshare, "--user", "--map-root-user", "sh", "-c", script, "sh", *AGENT, str(configure(tmp_path))]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 77
    assert done.stderr.splitlines()[-1] == (
        "error: this user may not make the namespaces that the sandbox's pods run in "
        "(unshare: No space left on device); to allow it: "
        "run `sysctl -w user.max_user_namespaces=15000` as root"
    )


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run([*AGENT, tmp_path / "none.json"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot read")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told_to_even_while_it_waits_for_the_api_server(tmp_path: Path, number: int) -> None:
    path = configure(tmp_path)
    with subprocess.Popen([*AGENT, path], stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        while not (tmp_path / "pods").exists():
            assert agent.poll() is None, agent.stderr.read()
        agent.send_signal(number)
        assert "stopped" in agent.communicate()[1]
        assert agent.returncode == 0
    assert not (tmp_path / "ready").exists()
