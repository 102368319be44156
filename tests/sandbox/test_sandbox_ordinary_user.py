"""The sandbox of a user without any privilege."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from finetune_sandbox import processes
from finetune_sandbox.layout import SHARED_MEMORY, Layout, memory_folder

NOBODY = 65534
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "greeter"},
    "spec": {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "fast", "emptyDir": {"medium": "Memory"}}],
        "containers": [
            {
                "name": "main",
                "image": "none",
                "command": ["sh", "-c", "echo hello > /fast/file; cat /fast/file; touch /refused || echo read-only"],
                "volumeMounts": [{"name": "fast", "mountPath": "/fast"}],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    },
}


# Where a folder that only root may enter (often root's home) holds the interpreter, another user needs a way in: the
# folder is covered by an empty one that everybody may enter, with the entry that is needed bound into it.
OPEN_WAY = """
set -e
for entry in $ENTRIES; do
    closed=$(dirname "$entry")
    if [ ! -e "$closed/.open" ]; then
        mkdir -p "$BEHIND$closed"
        mount --rbind "$closed" "$BEHIND$closed"
        mount -t tmpfs -o mode=755 open "$closed"
        touch "$closed/.open"
    fi
    mkdir "$entry"
    mount --rbind "$BEHIND$entry" "$entry"
done
exec "$@"
"""


def entries_behind_closed_doors(paths: Iterable[Path]) -> set[Path]:
    """The first entry on the way to each path that lies in a folder which others may not enter."""
    ways = ([*reversed(path.parents), path] for path in paths)
    return {entry for way in ways for entry in way[1:] if not entry.parent.stat().st_mode & stat.S_IXOTH}


class OrdinaryUser:
    """Runs commands as another user without any capability, should the tests run as root."""

    def __init__(self, home: Path, readable: Iterable[Path]) -> None:
        self.home = home
        self._prefix: list[str] = []
        self._environment = {"HOME": str(home)}
        if os.geteuid() == 0:
            os.chown(home, NOBODY, NOBODY)
            behind = home.with_name(f"{home.name}-behind")
            behind.mkdir()
            entries = " ".join(map(str, sorted(entries_behind_closed_doors(readable))))
            self._environment |= {"ENTRIES": entries, "BEHIND": str(behind)}
            self._prefix = ["unshare", "--mount", "sh", "-c", OPEN_WAY, "sh", "setpriv", f"--reuid={NOBODY}"]
            self._prefix += [f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]

    def run(self, *line: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = os.environ | self._environment | environment
        return subprocess.run(
            [*self._prefix, *map(str, line)], capture_output=True, text=True, env=variables, cwd=self.home
        )


@pytest.fixture
def user(control_plane: Path) -> Iterator[OrdinaryUser]:
    # pytest's own folders are closed to others.
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        home = Path(folder) / "home"
        home.mkdir()
        yield OrdinaryUser(home, [Path(sys.prefix), Path(sys.base_prefix), control_plane, *map(Path, sys.path)])


def test_the_whole_way(user: OrdinaryUser, control_plane: Path) -> None:
    state = user.home / "state"
    sandbox = [sys.executable, "-m", "finetune_sandbox"]
    up = user.run(*sandbox, "up", "--state-dir", state, KUBEBUILDER_ASSETS=str(control_plane))
    try:
        assert up.returncode == 0, up.stderr
        exports = user.run(*sandbox, "env", "--state-dir", state).stdout
        variables = dict(word.split("=", 1) for word in shlex.split(exports) if "=" in word)
        kubectl = Path(sys.executable).parent / "kubectl"
        (user.home / "pod.json").write_text(json.dumps(POD))
        applied = user.run(kubectl, "apply", "-f", user.home / "pod.json", **variables)
        assert applied.returncode == 0, applied.stderr
        phase = "--for=jsonpath={.status.phase}=Succeeded"
        waited = user.run(kubectl, "wait", phase, "pod/greeter", "--timeout=60s", **variables)
        assert waited.returncode == 0, user.run(kubectl, "get", "pod", "greeter", "-o", "yaml", **variables).stdout
        # Two pipes, output and errors: which one is read first at the end is not told.
        lines = user.run(kubectl, "logs", "greeter", **variables).stdout.splitlines()
        assert lines[0] == "hello"
        assert "read-only" in lines
    finally:
        down = user.run(*sandbox, "down", "--state-dir", state)
    assert down.returncode == 0, down.stderr
    assert not state.exists()
    assert not memory_folder(SHARED_MEMORY, Layout(state).pods).exists()
    assert processes.marked(state) == []


def test_a_cache_that_cannot_be_written_is_named(user: OrdinaryUser) -> None:
    folder = user.home / "cache"
    folder.mkdir(mode=0o555)
    environment = {"XDG_CACHE_HOME": str(folder), "KUBEBUILDER_ASSETS": ""}
    build = user.run(sys.executable, "-m", "finetune_sandbox", "build", **environment)
    assert build.returncode == 69
    cache = folder / "finetune-operator" / "controlplane"
    assert f"the cache {cache} cannot be made: Permission denied" in build.stderr
    assert "Traceback" not in build.stderr
