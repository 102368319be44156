"""Starts one container's process in namespaces of its own; run as ``python -I -S launcher.py FD``.

Imports nothing of this package, nor ``json`` or ``re``: it is started once for every container and its start-up time
is part of every pod's. FD is an open file that holds the marshalled arguments (see ``process.py``).

Three processes: this one stays outside as a handle for signals and the exit code; its child is PID 1 of the
container's PID namespace, so that the kernel ends every descendant when it ends; its grandchild is the command. Each
asks the kernel to be killed with its parent, so that nothing survives the agent.

A fork of a process that has imported a package already comes here too (see ``warm.py``) and runs that package as the
command, in the interpreter that it is.

Lines written to the report pipe: ``failed <message>``, or ``started`` and later ``exited <code> <signal>``.
"""

from __future__ import annotations

import ctypes
import errno
import marshal
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_BIND, MS_REC, MS_UNBINDABLE, MS_PRIVATE = 0x1000, 0x4000, 0x20000, 0x40000
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = -100, 0x8000, 0x1
# The same number on every architecture; part of Linux since 5.12, of glibc only since 2.36.
SYS_MOUNT_SETATTR = 442
# Exit code of a command that could not be started, as containerd reports it.
START_ERROR = 128
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class LaunchError(Exception):
    """A step of the preparation failed; the message names it."""


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _reason(error: Exception) -> str:
    """The message without an error number, which those of ``_check`` and of container runtimes do not show."""
    return error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(_libc.mount(*arguments), f"mount {kind or source} at {target}")


def _bind(source: str, target: str) -> None:
    # Recursive even for files: a user namespace may not take a mount apart from what is mounted below it.
    _mount(source, target, "", MS_BIND | MS_REC)


def _read_only(target: str, recursive: bool) -> None:
    """Add read-only to the mount and keep its other flags, which a user namespace may not clear."""
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    result = _libc.syscall(
        SYS_MOUNT_SETATTR, AT_FDCWD, target.encode(), flags, ctypes.byref(attributes), ctypes.sizeof(attributes)
    )
    _check(result, f"make {target} read-only")


def _prctl(option: int, argument: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0), f"prctl {option}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def enter_namespaces(uid: int, gid: int) -> None:
    """Become ``uid`` and ``gid`` of a new user namespace and leave the other namespaces of the host.

    The identity outside stays the agent's: only that one ID is mapped, which needs no privilege (user_namespaces(7)).
    """
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {outer_uid} 1")
    _write("/proc/self/gid_map", f"{gid} {outer_gid} 1")


class Root:
    """The container's root: a tmpfs that shows the host's entries read-only, with the volumes among them."""

    def __init__(self, staging: str) -> None:
        self.new = staging + "/root"
        self.host = staging + "/host"
        _mount("none", "/", "", MS_REC | MS_PRIVATE)
        _mount("tmpfs", staging, "tmpfs", 0, "mode=755")
        # Or the copy of the host's tree below would hold this tmpfs, and with it a copy of itself.
        _mount("none", staging, "", MS_UNBINDABLE)
        for folder in (self.new, self.host):
            os.mkdir(folder, 0o755)
        _mount("tmpfs", self.new, "tmpfs", 0, "mode=755")
        _bind("/", self.host)
        _read_only(self.host, recursive=True)

    def apply(self, operations: list[tuple[str, ...]]) -> None:
        """Carry out what ``rootfs.plan_root`` planned, in its order."""
        for name, *arguments in operations:
            getattr(self, "do_" + name)(*arguments)

    def do_dir(self, path: str) -> None:
        """An empty folder, unless there is one."""
        os.makedirs(self.new + path, 0o755, exist_ok=True)

    def do_file(self, path: str) -> None:
        """An empty file to mount on, unless there is something."""
        os.makedirs(os.path.dirname(self.new + path), 0o755, exist_ok=True)
        if not os.path.lexists(self.new + path):
            os.close(os.open(self.new + path, os.O_CREAT | os.O_WRONLY, 0o644))

    def do_link(self, path: str, destination: str) -> None:
        """A symbolic link."""
        os.symlink(destination, self.new + path)

    def do_host(self, path: str) -> None:
        """The host's own entry, read-only."""
        try:
            _bind(self.host + path, self.new + path)
        except OSError as error:
            # Gone since it was listed, or another user's FUSE mount: the container sees an empty entry.
            if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM):
                raise

    def do_device(self, path: str) -> None:
        """A device of the host, usable for reading and writing."""
        _bind(path, self.new + path)

    def do_bind(self, source: str, path: str) -> None:
        """A volume."""
        _bind(source, self.new + path)

    def do_readonly(self, path: str) -> None:
        """Make the mount at ``path`` read-only, but not what is mounted below it (Kubernetes' default)."""
        _read_only(self.new + path, recursive=False)

    def do_tmpfs(self, path: str, options: str) -> None:
        """Memory of the container's own."""
        _mount("tmpfs", self.new + path, "tmpfs", MS_NOSUID | MS_NODEV, options)

    def do_proc(self, path: str) -> None:
        """The PID namespace's own /proc, or the host's where the host itself hides parts of its /proc (a container)."""
        try:
            _mount("proc", self.new + path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        except PermissionError:
            _bind("/proc", self.new + path)

    def enter(self) -> None:
        """Make this the root and let go of the host's."""
        os.mkdir(self.new + "/.host", 0o700)
        _check(_libc.pivot_root(self.new.encode(), (self.new + "/.host").encode()), "pivot_root")
        os.chdir("/")
        _check(_libc.umount2(b"/.host", MNT_DETACH), "umount of the host's root")
        os.rmdir("/.host")


def _prepare_container(spec: dict[str, Any]) -> None:
    root = Root(spec["staging"])
    root.apply(spec["operations"])
    root.enter()
    hostname = spec["hostname"].encode()
    _check(_libc.sethostname(hostname, len(hostname)), "sethostname")
    if not os.path.isdir(spec["workdir"]):
        os.makedirs(spec["workdir"])
    if spec["read_only_root"]:
        _read_only("/", recursive=False)


def _drop_privileges(spec: dict[str, Any]) -> None:
    for capability in spec["drop_capabilities"]:
        try:
            _prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            # A capability that this kernel does not know cannot be held either.
            if error.errno != errno.EINVAL:
                raise
    if spec["no_new_privileges"]:
        _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _restore_signals() -> None:
    for number in (*FORWARDED, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def _run_module(spec: dict[str, Any]) -> None:
    """Run ``python -m MODULE ARGUMENTS`` in this interpreter; raises nothing but SystemExit, to the very bottom."""
    import runpy
    import traceback

    # As an interpreter sets them when it starts.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(spec["environment"])
    module = spec["command"][2]
    sys.argv = [module, *spec["command"][3:]]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


def _execute(spec: dict[str, Any]) -> None:
    """Replace this process by the command; raises LaunchError, worded as container runtimes do."""
    command = spec["command"]
    try:
        os.chdir(spec["workdir"])
        os.execvpe(command[0], command, spec["environment"])
    except FileNotFoundError as error:
        where = f"stat {command[0]}: no such file or directory" if "/" in command[0] else "not found in $PATH"
        raise LaunchError(f'exec: "{command[0]}": executable file {where}') from error
    except OSError as error:
        raise LaunchError(f'exec: "{command[0]}": {os.strerror(error.errno or 0).lower()}') from error


class Relay:
    """Passes signals on to the child; one that comes before there is a child ends this process."""

    def __init__(self) -> None:
        self.child = 0

    def install(self) -> None:
        """Handle the signals that a process may be asked to act on."""
        for number in FORWARDED:
            signal.signal(number, self._forward)

    def _forward(self, number: int, _frame: object) -> None:
        if not self.child:
            os._exit(128 + number)
        try:
            os.kill(self.child, number)
        except ProcessLookupError:
            # It ended already and is about to be waited for.
            return


def _fork(relay: Relay, child: Callable[[], None]) -> None:
    relay.child = 0
    pid = os.fork()
    if pid == 0:
        child()
    relay.child = pid


def _wait(relay: Relay) -> tuple[int, int]:
    """Reap every child until the relay's own ends; its exit code (128 plus the signal, if any) and its signal or 0."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == relay.child:
            code = os.waitstatus_to_exitcode(status)
            return (code, 0) if code >= 0 else (128 - code, -code)


def _report(descriptor: int, line: str) -> None:
    os.write(descriptor, (line.replace("\n", " ") + "\n").encode())


def _run_command(spec: dict[str, Any], ready: int) -> None:
    """The command's process: never returns; says on ``ready`` why it could not become the command, or closes it."""
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        _restore_signals()
        _drop_privileges(spec)
        if not spec.get("warm"):
            _execute(spec)
        os.chdir(spec["workdir"])
    except (OSError, LaunchError) as error:
        os.write(ready, _reason(error).encode())
        os._exit(START_ERROR)
    # What a program does not inherit, ``ready`` among it.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    _run_module(spec)


def _run_init(spec: dict[str, Any], report: int, relay: Relay) -> None:
    """PID 1 of the container: never returns; ends with the command's exit code or 128 plus its signal."""
    code = START_ERROR
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _prepare_container(spec)
        reading, writing = os.pipe()
        _fork(relay, lambda: _run_command(spec, writing))
        os.close(writing)
        # The pipe closes without a word when the command takes over.
        failure = os.read(reading, 4096).decode()
        if failure:
            raise LaunchError(failure)
        _report(report, "started")
        code, number = _wait(relay)
        _report(report, f"exited {code} {number}")
    except (OSError, LaunchError) as error:
        _report(report, f"failed {_reason(error)}")
    os._exit(code)


def run(spec: dict[str, Any]) -> None:
    """Make the namespaces and stay until the container's PID 1 has ended; never returns."""
    report: int = spec["report"]
    relay = Relay()
    relay.install()
    try:
        enter_namespaces(spec["uid"], spec["gid"])
    except OSError as error:
        _report(report, f"failed {_reason(error)}")
        sys.exit(START_ERROR)
    # After the new credentials, which clear it; then the parent may be gone already.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != spec["parent"]:
        sys.exit(START_ERROR)
    os.set_inheritable(report, False)
    _fork(relay, lambda: _run_init(spec, report, relay))
    os.close(report)
    for standard in (0, 1, 2):
        os.close(standard)
    os._exit(_wait(relay)[0])


if __name__ == "__main__":
    with open(int(sys.argv[1]), "rb") as file:
        arguments = marshal.load(file)
    run(arguments)
