"""Shape, layout, state file, log tails, mounts, locks, ports: the small parts."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from finetune_sandbox import logs, mounts, state
from finetune_sandbox.errors import InvalidShape
from finetune_sandbox.layout import Layout, default_cache_dir, default_state_dir
from finetune_sandbox.locking import try_lock
from finetune_sandbox.ports import COLLISION, LOOPBACK, Reservation
from finetune_sandbox.processes import Identity
from finetune_sandbox.shape import Shape
from finetune_sandbox.state import PartState, Phase, State
from finetune_sandbox.supervisor import describe_end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 0}, "--nodes must be at least 1, not 0"),
        ({"gpus_per_node": -1}, "--gpus-per-node must not be negative, not -1"),
        ({"cpus_per_node": "many"}, "--cpus-per-node must be a quantity above zero such as 8 or 64Gi, not 'many'"),
        ({"cpus_per_node": "0"}, "--cpus-per-node must be a quantity above zero such as 8 or 64Gi, not '0'"),
        ({"memory_per_node": "64GB"}, "--memory-per-node must be a quantity above zero such as 8 or 64Gi, not '64GB'"),
        ({"preload": "no module"}, "--preload must name a Python module that is installed here, not 'no module'"),
        ({"preload": "json.no"}, "--preload must name a Python module that is installed here, not 'json.no'"),
        ({"preload": "no.such"}, "--preload must name a Python module that is installed here, not 'no.such'"),
        ({"memory_per_node": "-1Gi"}, "--memory-per-node must be a quantity above zero such as 8 or 64Gi, not '-1Gi'"),
    ],
)
def test_impossible_shapes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidShape) as refusal:
        Shape(**arguments)
    assert str(refusal.value) == message
    assert refusal.value.exit_code == 2


def test_nodes_are_numbered() -> None:
    assert Shape(2, 8, "500m", "1.5Gi").node_entries() == [
        {"name": "sandbox-0", "cpu": "500m", "memory": "1.5Gi", "gpus": 8},
        {"name": "sandbox-1", "cpu": "500m", "memory": "1.5Gi", "gpus": 8},
    ]


def test_default_folders_follow_the_xdg_variables() -> None:
    set_both = {"XDG_STATE_HOME": "/state", "XDG_CACHE_HOME": "/cache"}
    assert default_state_dir(set_both) == Path("/state/finetune-sandbox")
    assert default_cache_dir(set_both) == Path("/cache/finetune-operator")
    assert default_state_dir({}) == Path.home() / ".local/state/finetune-sandbox"
    assert default_state_dir({"XDG_STATE_HOME": "relative"}) == default_state_dir({})


def test_folders_are_private(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state")
    layout.make()
    for folder in (layout.root, layout.pki, layout.logs, layout.run, layout.data, layout.pods):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_state_survives_the_file(tmp_path: Path) -> None:
    written = State(
        Phase.FAILED,
        Identity(1, 2),
        made_root=True,
        ports={"api": 6443},
        access_key="key",
        secret_key="secret",
        parts=(PartState("etcd", Identity(3, 4), ready=True), PartState("x", Identity(5, 6), ended="exit code 1")),
        message="x ended: exit code 1",
    )
    path = tmp_path / "state.json"
    assert state.read(path) is None
    state.write(path, written)
    assert state.read(path) == written
    assert written.processes() == [Identity(1, 2), Identity(3, 4), Identity(5, 6)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_tail_reads_the_last_lines_of_a_large_log(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    log.write_bytes(b"".join(b"line %d \xff\n" % number for number in range(20_000)))
    assert logs.tail(log, 2) == f"--- the end of {log} ---\nline 19998 \ufffd\nline 19999 \ufffd"


def test_tail_of_no_log_and_of_an_empty_one(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    assert logs.tail(log).endswith("(no log was written)")
    log.touch()
    assert logs.tail(log).endswith("(the log is empty)")


def test_mount_points_below_a_folder() -> None:
    mountinfo = (
        "22 1 0:21 / /sandbox rw - tmpfs tmpfs rw\n"
        "23 22 0:22 / /sandbox/pods/a\\040b rw - tmpfs tmpfs rw\n"
        "24 22 0:23 / /sandbox-2/pods rw - tmpfs tmpfs rw\n"
        "25 23 0:24 /x /sandbox/pods/a\\040b/c rw - ext4 /dev/vda rw\n"
    )
    assert mounts.mount_points(mountinfo, Path("/sandbox")) == [
        Path("/sandbox/pods/a b"),
        Path("/sandbox/pods/a b/c"),
    ]


def test_one_process_holds_the_lock(tmp_path: Path) -> None:
    first = try_lock(tmp_path / "lock")
    assert first is not None
    assert try_lock(tmp_path / "lock") is None
    os.close(first)
    second = try_lock(tmp_path / "lock")
    assert second is not None
    os.close(second)


def test_reserved_ports_are_distinct_and_nobody_elses() -> None:
    reservation = Reservation(("a", "b", "c"))
    assert len(set(reservation.ports.values())) == 3
    with socket.socket() as other:
        with pytest.raises(OSError, match=r"(?i)address already in use") as refusal:
            other.bind((LOOPBACK, reservation.ports["a"]))
        assert refusal.value.errno == errno.EADDRINUSE
        assert COLLISION in os.strerror(errno.EADDRINUSE).lower()
        reservation.release("a")
        other.bind((LOOPBACK, reservation.ports["a"]))
    reservation.release()


def test_following_ports_lie_at_their_distance() -> None:
    reservation = Reservation(("a", "b"), {"a.grpc": ("a", 10_000)})
    assert set(reservation.ports) == {"a", "b", "a.grpc"}
    assert reservation.ports["a.grpc"] == reservation.ports["a"] + 10_000
    reservation.release()


@pytest.mark.parametrize(("code", "text"), [(1, "exit code 1"), (0, "exit code 0"), (-9, "killed by SIGKILL")])
def test_endings_in_words(code: int, text: str) -> None:
    assert describe_end(code) == text
