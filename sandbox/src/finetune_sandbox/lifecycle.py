"""Bringing a sandbox up and taking it down, from outside of its supervisor."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from finetune_sandbox import binaries, mounts, parts, processes, state
from finetune_sandbox.errors import AlreadyRunning, NotRunning, PartFailed, SandboxError, StateDirectoryRefused
from finetune_sandbox.kubeconfig import write_private
from finetune_sandbox.layout import SHARED_MEMORY, Layout, memory_folder
from finetune_sandbox.locking import try_lock
from finetune_sandbox.logs import tail
from finetune_sandbox.processes import MARKER, Identity
from finetune_sandbox.shape import Shape
from finetune_sandbox.state import Phase, State
from finetune_sandbox.trees import remove_tree

_POLL_SECONDS = 0.05
_SUPERVISOR = "supervisor"


def up(root: Path, shape: Shape, owner: Identity | None = None) -> State:
    """Start a sandbox in ``root`` and return when all of it is ready. It ends when ``owner`` does, if there is one.

    Raises:
        ControlPlaneUnavailable: there are no binaries and no way to compile them.
        AlreadyRunning: a sandbox runs there.
        StateDirectoryRefused: ``root`` holds something else.
        PartFailed: a part did not start; the message has its log's end and all parts are ended again.
    """
    if platform.system() != "Linux":
        raise SandboxError(f"the sandbox needs Linux (its namespaces and /proc), this is {platform.system()}")
    layout = Layout(root)
    _refuse_foreign(layout)
    if _is_locked(layout):
        raise AlreadyRunning(f"a sandbox runs in {root} already")
    folder = binaries.obtain()
    made_root = not root.exists()
    lock = _occupy(layout)
    try:
        made_root = _clear_remains(layout, made_root)
        supervisor = _launch_supervisor(layout, _request(shape, folder, made_root, owner), lock)
    finally:
        os.close(lock)
    return _await_ready(layout, supervisor)


def down(root: Path, *, keep_logs: bool = False) -> bool:
    """End the sandbox in ``root`` and remove its files; False when there was none.

    Finds its processes even when the supervisor is gone. A state directory that existed before ``up`` is emptied but
    not removed.
    """
    layout = Layout(root)
    recorded = state.read(layout.state)
    if recorded is None and not layout.lock.exists():
        return False
    if recorded is not None:
        processes.end([recorded.supervisor], parts.AGENT_GRACE_SECONDS + 10)
    _sweep(layout, recorded)
    _remove(layout, keep_logs=keep_logs, whole=recorded is None or recorded.made_root)
    return True


def load(root: Path) -> State:
    """The state of the sandbox in ``root``, running or not.

    Raises:
        NotRunning: there is none.
    """
    recorded = state.read(Layout(root).state)
    if recorded is None:
        raise NotRunning(f"no sandbox in {root}")
    return recorded


def _refuse_foreign(layout: Layout) -> None:
    if not layout.root.exists() or layout.lock.exists():
        return
    if not layout.root.is_dir() or any(layout.root.iterdir()):
        raise StateDirectoryRefused(f"{layout.root} is not empty and holds no sandbox: name another --state-dir")


def _is_locked(layout: Layout) -> bool:
    if not layout.lock.exists():
        return False
    descriptor = try_lock(layout.lock)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def _occupy(layout: Layout) -> int:
    """Make the folders and take the lock; returns the descriptor that holds it."""
    try:
        layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = try_lock(layout.lock)
    except OSError as error:
        raise StateDirectoryRefused(f"{layout.root} cannot be written: {error.strerror}") from error
    if lock is None:
        raise AlreadyRunning(f"a sandbox is being started in {layout.root} already")
    return lock


def _clear_remains(layout: Layout, made_root: bool) -> bool:
    """Remove what a sandbox that did not go down properly has left; says whether ``down`` may remove the folder."""
    remains = state.read(layout.state)
    if remains is not None:
        print(f"Removing the remains of a sandbox that no longer runs from {layout.root}", file=sys.stderr)
        made_root = remains.made_root
        _sweep(layout, remains)
    for entry in layout.root.iterdir():
        if entry != layout.lock:
            _delete(entry)
    layout.make()
    return made_root


def _request(shape: Shape, folder: Path, made_root: bool, owner: Identity | None) -> dict[str, object]:
    whose = asdict(owner) if owner else None
    return {"shape": asdict(shape), "binaries": str(folder), "made_root": made_root, "owner": whose}


def _launch_supervisor(layout: Layout, request: dict[str, object], lock: int) -> Identity:
    write_private(layout.request, json.dumps(request).encode())
    arguments = ["--state-dir", str(layout.root), "--lock-fd", str(lock)]
    with layout.log(_SUPERVISOR).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune_sandbox.supervisor", *arguments],
            env=dict(os.environ) | {MARKER: str(layout.root)},
            cwd=layout.run,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock,),
        )
    # It outlives this process, which therefore never waits for it.
    process.returncode = 0
    identity = processes.identify(process.pid)
    assert identity is not None
    return identity


def _await_ready(layout: Layout, supervisor: Identity) -> State:
    try:
        while True:
            alive = supervisor.alive()
            recorded = state.read(layout.state)
            if recorded is not None and recorded.phase is Phase.RUNNING:
                return recorded
            if not alive:
                raise PartFailed(_why_it_ended(layout, recorded))
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        down(layout.root)
        raise


def _why_it_ended(layout: Layout, recorded: State | None) -> str:
    if recorded is not None and recorded.message:
        return recorded.message
    return f"the supervisor ended\n{tail(layout.log(_SUPERVISOR))}"


def _sweep(layout: Layout, recorded: State | None) -> None:
    """End what the supervisor could not: everything on record and everything that carries the sandbox's marker."""
    if recorded is not None:
        agents = [part.process for part in recorded.parts if part.name == parts.NODE_AGENT]
        processes.end(agents, parts.AGENT_GRACE_SECONDS)
        processes.end(recorded.processes())
        for socket in parts.store_sockets(recorded.ports) if recorded.ports else ():
            socket.unlink(missing_ok=True)
    processes.end(processes.marked(layout.root))
    mounts.unmount_below(layout.root)
    # An agent that was killed could not empty it.
    remove_tree(memory_folder(SHARED_MEMORY, layout.pods))


def _remove(layout: Layout, *, keep_logs: bool, whole: bool) -> None:
    # With its mark, so that the next `up` knows the folder as a sandbox's.
    kept = {layout.logs, layout.lock} if keep_logs else set()
    for entry in layout.root.iterdir():
        if entry not in kept:
            _delete(entry)
    if whole and not kept:
        layout.root.rmdir()


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    remove_tree(path)
