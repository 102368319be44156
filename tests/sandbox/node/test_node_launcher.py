"""Containers started for real, without a cluster."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from finetune_sandbox.node.process import ContainerProcess, ExitStatus, LaunchSpec, exit_status, launch
from finetune_sandbox.node.rootfs import LocalHost, Mount, plan_root


@dataclass
class Container:
    """A started container and what it has written so far."""

    process: ContainerProcess
    output: bytearray

    async def finish(self) -> tuple[ExitStatus, str]:
        status = await self.process.exited
        return status, self.output.decode()

    async def says(self, word: str) -> None:
        while word not in self.output.decode():
            await asyncio.sleep(0.01)


def start(tmp_path: Path, command: list[str], *mounts: Mount, **settings: object) -> Container:
    staging = tmp_path / "staging"
    staging.mkdir(exist_ok=True)
    operations = plan_root(list(mounts), LocalHost())
    spec = LaunchSpec(command, {"PATH": os.environ["PATH"]}, operations, str(staging), "pod-a")
    output = bytearray()
    process = launch(replace(spec, **settings), output.extend, output.extend)  # type: ignore[arg-type]
    return Container(process, output)


async def run(tmp_path: Path, script: str, *mounts: Mount, **settings: object) -> tuple[ExitStatus, str]:
    return await start(tmp_path, ["sh", "-c", script], *mounts, **settings).finish()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", ExitStatus(0)),
        ("exit 7", ExitStatus(7)),
        ("kill -9 $$", ExitStatus(137, signal.SIGKILL)),
        ("kill -11 $$", ExitStatus(139, signal.SIGSEGV)),
        ("exit 137", ExitStatus(137)),
    ],
)
async def test_exit_code_and_signal(tmp_path: Path, script: str, expected: ExitStatus) -> None:
    assert (await run(tmp_path, script))[0] == expected


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["no-such-program"], 'exec: "no-such-program": executable file not found in $PATH'),
        (
            ["/no/such/program"],
            'exec: "/no/such/program": executable file stat /no/such/program: no such file or directory',
        ),
        (["/etc"], 'exec: "/etc": permission denied'),
    ],
)
async def test_a_command_that_cannot_be_started_says_why(tmp_path: Path, command: list[str], message: str) -> None:
    container = start(tmp_path, command)
    assert not await container.process.started
    assert await container.process.exited == ExitStatus(128, start_error=message)


async def test_volumes_appear_where_the_host_has_nothing(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "in").write_text("from outside")
    script = "cat /etc/finetune/in && printf 'from inside' > /workspace/deep/out"
    mounts = [Mount(str(volume), "/etc/finetune", read_only=True), Mount(str(volume), "/workspace/deep")]
    status, output = await run(tmp_path, script, *mounts)
    assert (status.code, output) == (0, "from outside")
    assert (volume / "out").read_text() == "from inside"
    assert not os.path.exists("/etc/finetune")
    assert not os.path.exists("/workspace/deep")


async def test_a_container_cannot_write_to_the_host(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.write_text("untouched")
    status, output = await run(tmp_path, f"echo changed > {marker}")
    assert status.code != 0
    assert "Read-only file system" in output
    assert marker.read_text() == "untouched"


@pytest.mark.parametrize(
    ("read_only_root", "code"),
    [(False, 0), (True, 2)],
)
async def test_the_root_itself_is_writable_unless_it_is_read_only(
    tmp_path: Path, read_only_root: bool, code: int
) -> None:
    status, _ = await run(tmp_path, "echo x > /new-file", read_only_root=read_only_root)
    assert status.code == code
    assert not os.path.exists("/new-file")


async def test_identity_hostname_and_working_directory(tmp_path: Path) -> None:
    script = "id -u; id -g; hostname; pwd; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status"
    status, output = await run(
        tmp_path,
        script,
        uid=65532,
        gid=65532,
        workdir="/made/for/it",
        no_new_privileges=True,
        drop_all_capabilities=True,
    )
    assert status.code == 0
    assert output.split() == [
        "65532", "65532", "pod-a", "/made/for/it", "CapEff:", "0000000000000000", "NoNewPrivs:", "1",
    ]  # fmt: skip


async def test_devices_processes_and_shared_memory_work(tmp_path: Path) -> None:
    program = (
        "import multiprocessing, os\n"
        "with multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, -2]))\n"
        "open('/dev/shm/a', 'w').close(); open('/dev/null', 'w').write('x')\n"
        "print(len(open('/dev/urandom', 'rb').read(4)), os.path.exists('/proc/self/status'))\n"
    )
    python = os.path.realpath(sys.executable)
    status, output = await start(tmp_path, [python, "-I", "-c", program]).finish()
    assert (status.code, output) == (0, "[1, 2]\n4 True\n")
    assert not os.path.exists("/dev/shm/a")


async def test_signals_reach_the_command(tmp_path: Path) -> None:
    container = start(
        tmp_path, ["sh", "-c", "trap 'echo stopping; exit 5' TERM; echo up; while :; do sleep 0.02; done"]
    )
    await container.says("up")
    container.process.signal(signal.SIGTERM)
    assert await container.finish() == (ExitStatus(5), "up\nstopping\n")


async def test_a_command_without_a_handler_ends_by_the_signal(tmp_path: Path) -> None:
    container = start(tmp_path, ["sleep", "600"])
    assert await container.process.started
    container.process.signal(signal.SIGTERM)
    assert (await container.finish())[0] == ExitStatus(143, signal.SIGTERM)


def processes_with(argument: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("ending", ["kill", "exit"])
async def test_no_descendant_survives_even_in_a_session_of_its_own(tmp_path: Path, ending: str) -> None:
    mark = f"6{os.getpid()}"
    script = f"trap '' TERM; setsid sleep {mark} & echo up; " + ("exit 0" if ending == "exit" else "sleep 600")
    container = start(tmp_path, ["sh", "-c", script])
    await container.says("up")
    if ending == "kill":
        container.process.kill()
    status, _ = await container.finish()
    assert status == (ExitStatus(0) if ending == "exit" else ExitStatus(137, signal.SIGKILL))
    assert processes_with(mark) == []


AGENT = """
import asyncio, os, sys
from finetune_sandbox.node.process import LaunchSpec, launch
from finetune_sandbox.node.rootfs import LocalHost, plan_root

async def main():
    command = ["sh", "-c", "echo up; setsid sleep " + sys.argv[2]]
    spec = LaunchSpec(command, {"PATH": os.defpath}, plan_root([], LocalHost()), sys.argv[1], "pod")
    await launch(spec, lambda data: os.write(1, data), lambda data: os.write(2, data)).exited

asyncio.run(main())
"""


def test_nothing_survives_when_the_agent_is_killed(tmp_path: Path) -> None:
    mark = f"7{os.getpid()}"
    (tmp_path / "staging").mkdir()
    agent = subprocess.Popen([sys.executable, "-c", AGENT, tmp_path / "staging", mark], stdout=subprocess.PIPE)
    assert agent.stdout is not None
    with agent.stdout:
        assert agent.stdout.readline() == b"up\n"
        agent.kill()
        agent.wait()
    while processes_with(mark):
        time.sleep(0.01)
    assert processes_with(str(tmp_path / "staging")) == []


def test_without_privileges(tmp_path: Path) -> None:
    """As a user without a single capability but the one to map the superuser's own ID, should the tests run as it."""
    (tmp_path / "staging").mkdir()
    line = [sys.executable, "-c", AGENT.replace("echo up; setsid sleep", "id -u; echo"), tmp_path / "staging", "done"]
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        assert setpriv, "util-linux is not installed"
        line = [setpriv, "--bounding-set=-all,+setfcap", "--inh-caps=-all", *line]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("0\ndone\n", "", 0)


@pytest.mark.parametrize(
    ("report", "returncode", "expected"),
    [
        ("started\nexited 3 0\n", 3, ExitStatus(3)),
        ("started\nexited 143 15\n", 143, ExitStatus(143, 15)),
        ("failed mount: no\n", 128, ExitStatus(128, start_error="mount: no")),
        ("started\n", -9, ExitStatus(137, 9)),
        ("", 143, ExitStatus(143)),
    ],
)
def test_exit_status_from_a_report(report: str, returncode: int, expected: ExitStatus) -> None:
    assert exit_status(report, returncode) == expected
