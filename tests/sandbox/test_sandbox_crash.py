"""Parts that crash, hang or never start; a supervisor that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_sandbox import Sandbox, processes
from finetune_sandbox.binaries import BINARIES
from finetune_sandbox.errors import PartFailed
from finetune_sandbox.layout import SHARED_MEMORY, Layout, memory_folder
from finetune_sandbox.parts import store_sockets
from finetune_sandbox.processes import Identity
from support.clusters import PROJECT

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def state_dir(tmp_path: Path, command: Run) -> Iterator[Path]:
    """A state directory whose sandbox is taken down whatever happens."""
    yield tmp_path / "state"
    command("down", "--state-dir", tmp_path / "state")


@pytest.fixture
def broken(tmp_path: Path, control_plane: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a shell script in the place of one of the control plane's programs."""

    def replace(name: str, script: str) -> None:
        folder = tmp_path / "broken-assets"
        folder.mkdir()
        for binary in BINARIES:
            (folder / binary).symlink_to(control_plane / binary)
        (folder / name).unlink()
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(folder))

    return replace


def part(sandbox: Sandbox, name: str) -> Identity:
    return next(part.process for part in sandbox.state.parts if part.name == name)


def test_a_part_that_cannot_start_is_named_with_its_log(broken: Callable[[str, str], None], state_dir: Path) -> None:
    broken("kube-scheduler", "echo 'the reason, on the last line' >&2; exit 7")
    with pytest.raises(PartFailed) as failure:
        Sandbox.up(state_dir)
    assert str(failure.value) == (
        "kube-scheduler ended: exit code 7\n"
        f"--- the end of {state_dir}/logs/kube-scheduler.log ---\n"
        "the reason, on the last line"
    )
    assert processes.marked(state_dir) == []


def test_up_after_a_failed_up(
    broken: Callable[[str, str], None], state_dir: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken("etcd", "echo 'disk full' >&2; exit 1")
    failed = command("up", "--state-dir", state_dir)
    assert failed.returncode == 1
    assert failed.stderr.startswith("PartFailed: etcd ended: exit code 1\n")
    assert failed.stderr.endswith("disk full\n")
    status = command("status", "--state-dir", state_dir)
    assert status.returncode == 1
    assert "etcd ended: exit code 1" in status.stderr
    monkeypatch.delenv("KUBEBUILDER_ASSETS")
    again = command("up", "--state-dir", state_dir)
    assert again.returncode == 0, again.stderr
    assert f"Removing the remains of a sandbox that no longer runs from {state_dir}" in again.stderr
    assert command("status", "--state-dir", state_dir).returncode == 0
    assert command("down", "--state-dir", state_dir).returncode == 0
    assert not state_dir.exists()


def test_a_port_that_was_taken_meanwhile_is_replaced(
    broken: Callable[[str, str], None], state_dir: Path, control_plane: Path
) -> None:
    """The scheduler stands for any part: it fails the first time as Go programs do whose port is taken."""
    marker = state_dir.parent / "failed-once"
    broken(
        "kube-scheduler",
        f"""if [ ! -e {marker} ]; then
            touch {marker}; echo 'listen tcp 127.0.0.1:1: bind: address already in use' >&2; exit 1
        fi
        exec {control_plane}/kube-scheduler "$@" """,
    )
    with Sandbox.up(state_dir) as sandbox:
        assert marker.exists()
        assert "a port was taken, starting again with others" in (state_dir / "logs/supervisor.log").read_text()
        assert all(part.process.alive() for part in sandbox.state.parts)


def test_a_crash_is_reported_by_name_and_the_rest_stays(state_dir: Path, command: Run) -> None:
    sandbox = Sandbox.up(state_dir)
    scheduler = part(sandbox, "kube-scheduler")
    os.kill(scheduler.pid, signal.SIGKILL)
    assert processes.wait([scheduler], 20)
    while "killed by SIGKILL" not in (status := command("status", "--state-dir", state_dir)).stdout:
        pass
    assert status.returncode == 1
    assert status.stderr.startswith(
        f"kube-scheduler ended: killed by SIGKILL\n--- the end of {state_dir}/logs/kube-scheduler.log ---\n"
    )
    assert "Starting Kubernetes Scheduler" in status.stderr
    assert part(sandbox, "kube-apiserver").alive()
    sandbox.down()
    assert not [process for process in sandbox.state.processes() if process.alive()]


def test_a_frozen_part_and_a_killed_supervisor(state_dir: Path, command: Run) -> None:
    sandbox = Sandbox.up(state_dir)
    api_server = part(sandbox, "kube-apiserver")
    os.kill(api_server.pid, signal.SIGSTOP)
    frozen = command("status", "--state-dir", state_dir)
    assert frozen.returncode == 1
    assert frozen.stderr.startswith("kube-apiserver does not answer\n")
    os.kill(sandbox.state.supervisor.pid, signal.SIGKILL)
    assert processes.wait(sandbox.state.processes(), 30)
    orphaned = command("status", "--state-dir", state_dir)
    assert orphaned.returncode == 1
    assert orphaned.stderr.startswith("the supervisor is gone\n")
    # What pods have in memory outlives a killed node agent.
    volumes = memory_folder(SHARED_MEMORY, Layout(state_dir).pods)
    (volumes / "pod").mkdir(parents=True, exist_ok=True)
    assert command("down", "--state-dir", state_dir).returncode == 0
    assert not volumes.exists()
    assert not state_dir.exists()
    assert processes.marked(state_dir) == []


def test_down_keeps_the_logs_on_request(broken: Callable[[str, str], None], state_dir: Path, command: Run) -> None:
    broken("kube-apiserver", "exit 1")
    assert command("up", "--state-dir", state_dir).returncode == 1
    assert command("down", "--keep-logs", "--state-dir", state_dir).returncode == 0
    assert sorted(path.name for path in state_dir.iterdir()) == [".finetune-sandbox.lock", "logs"]
    assert (state_dir / "logs/kube-apiserver.log").exists()


def test_a_removed_state_directory_ends_everything(state_dir: Path) -> None:
    sandbox = Sandbox.up(state_dir)
    sockets = store_sockets(sandbox.state.ports)
    assert all(socket.exists() for socket in sockets)
    state_dir.rename(state_dir.parent / "moved")
    assert processes.wait(sandbox.state.processes(), 30)
    assert not state_dir.exists()
    assert not [socket for socket in sockets if socket.exists()]


def test_an_attached_sandbox_and_operator_end_with_a_process_that_is_killed(state_dir: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from finetune_sandbox import Sandbox\n"
        "from finetune_sandbox.installation import OperatorProcess, install\n"
        "sandbox = Sandbox.up(sys.argv[1], attached=True)\n"
        "install(sandbox.kubeconfig, Path(sys.argv[2]))\n"
        "print(OperatorProcess.start(sandbox.kubeconfig, Path(sys.argv[3])).process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    line = [sys.executable, "-c", code, str(state_dir), str(PROJECT), str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        operator = processes.identify(int(owner.stdout.readline()))
        assert operator
        running = Sandbox.open(state_dir).state.processes()
        owner.kill()
    assert processes.wait([*running, operator], 30)
    assert processes.marked(state_dir) == []


def test_an_interrupted_up_leaves_nothing(state_dir: Path, control_plane: Path) -> None:
    line = [sys.executable, "-m", "finetune_sandbox", "up", "--state-dir", str(state_dir)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as starting:
        while not (state_dir / "logs/etcd.log").exists():
            assert starting.poll() is None
        starting.send_signal(signal.SIGINT)
        assert starting.wait() == 130
    assert not state_dir.exists()
    assert processes.marked(state_dir) == []
