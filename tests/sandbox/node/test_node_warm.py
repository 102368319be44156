"""Containers that start as forks of a process which has imported their package, without a cluster."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_sandbox.node.warm import WarmInterpreter, read_once

# What a container finds; "said" is from its output.
_PACKAGE = """
import json, os, signal, sys
from warmed import preload
told = {
    "imported by": preload.WHERE,
    "arguments": sys.argv[1:],
    "environment": sorted(os.environ),
    "secret": os.environ.get("SECRET"),
    "user": os.getuid(),
    "host": os.uname().nodename,
    "folder": os.getcwd(),
    "descriptors": [number for number in range(1000) if os.path.lexists(f"/proc/self/fd/{number}")],
    "signals": [signal.getsignal(number).name for number in (signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)],
    "first": os.getpid() < 10,
    "input": sys.stdin.read(),
}
print(json.dumps(told), flush=True)
how = sys.argv[1]
if how == "raise":
    raise ValueError("as it happens")
if how == "killed":
    os.kill(os.getpid(), signal.SIGSEGV)
if how == "wait":
    signal.pause()
if how == "fork":
    pid = os.fork()
    sys.exit(5 if pid == 0 else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
sys.exit({"text": "in words", "none": None}.get(how, 7))
"""
_PRELOAD = """
import os
WHERE = os.getpid()
"""
# Starts one container of each kind, the first of them cold, and says how they ended.
_DRIVER = """
import asyncio, json, os, signal, sys, tempfile
from finetune_sandbox.node.process import LaunchSpec, launch
from finetune_sandbox.node.rootfs import LocalHost, plan_root
from finetune_sandbox.node.warm import WarmInterpreter

async def run(warm, how, **environment):
    command = ["python", "-m", "warmed", how, "--flag"]
    given = {name: os.environ[name] for name in ("PATH", "PYTHONPATH")}
    given |= {"HOME": "/nowhere", "LANG": "C.UTF-8", **environment}
    staging = tempfile.mkdtemp(dir=sys.argv[1])
    spec = LaunchSpec(command, given, plan_root([], LocalHost()), staging, "pod-a", uid=1234, gid=1234)
    output = bytearray()
    served = await warm.serves(spec.command, spec.environment)
    process = launch(spec, output.extend, output.extend, warm if served else None)
    started = await process.started
    if how == "wait":
        while b"}" not in output:
            await asyncio.sleep(0.01)
        process.signal(signal.SIGTERM)
    ended = await process.exited
    process.signal(signal.SIGTERM)
    kind = type(process.launched).__name__
    return {"kind": kind, "started": started, "code": ended.code, "signal": ended.signal, "output": output.decode()}

async def main():
    warm = WarmInterpreter("warmed.preload")
    ends = {"cold": await run(warm, "plain")}
    for how in ("plain", "text", "none", "raise", "killed", "wait", "fork"):
        ends[how] = await run(warm, how, SECRET="of this one")
    ends["other"] = await run(warm, "plain", OMP_NUM_THREADS="3")
    ends["broken"] = await run(warm, "plain", PATH="/nowhere")
    print(json.dumps(ends))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How each container ended."""
    folder = tmp_path_factory.mktemp("warm")
    package = folder / "warmed"
    package.mkdir()
    for name, content in (("__init__", ""), ("preload", _PRELOAD), ("__main__", _PACKAGE)):
        (package / f"{name}.py").write_text(content)
    driver = folder / "driver.py"
    driver.write_text(_DRIVER)
    done = subprocess.run(
        [sys.executable, str(driver), str(folder)],
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def said(end: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(end["output"].splitlines()[0])
    return told


def test_the_first_container_is_cold_and_the_next_ones_are_forks(ends: dict[str, dict[str, Any]]) -> None:
    kinds = {how: end["kind"] for how, end in ends.items()}
    assert kinds.pop("cold") == kinds.pop("other") == kinds.pop("broken") == "Program"
    assert set(kinds.values()) == {"Fork"}
    imported = {said(ends[how])["imported by"] for how in kinds}
    assert len(imported) == 1, "once for all of them"


def test_a_fork_finds_what_a_new_interpreter_finds(ends: dict[str, dict[str, Any]]) -> None:
    cold, warm = said(ends["cold"]), said(ends["plain"])
    for told in (cold, warm):
        del told["imported by"]
    assert warm.pop("secret") == "of this one"
    assert cold.pop("secret") is None
    warm["environment"].remove("SECRET")
    assert warm == cold
    assert warm["arguments"] == ["plain", "--flag"]
    assert (warm["user"], warm["host"], warm["folder"]) == (1234, "pod-a", "/")
    assert warm["descriptors"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("how", "code", "number"),
    [
        ("cold", 7, 0),
        ("plain", 7, 0),
        ("text", 1, 0),
        ("none", 0, 0),
        ("raise", 1, 0),
        ("killed", 128 + signal.SIGSEGV, signal.SIGSEGV),
        ("wait", 128 + signal.SIGTERM, signal.SIGTERM),
        ("fork", 5, 0),
    ],
)
def test_it_ends_as_an_interpreter_ends(ends: dict[str, dict[str, Any]], how: str, code: int, number: int) -> None:
    assert (ends[how]["started"], ends[how]["code"], ends[how]["signal"]) == (True, code, number)


def test_what_it_dies_of_is_in_its_output(ends: dict[str, dict[str, Any]]) -> None:
    assert "ValueError: as it happens" in ends["raise"]["output"]
    assert "in words" in ends["text"]["output"]


def test_one_with_other_variables_that_libraries_read_once_starts_cold(ends: dict[str, dict[str, Any]]) -> None:
    assert ends["other"]["code"] == 7
    assert said(ends["other"])["imported by"] != said(ends["plain"])["imported by"]


def test_a_program_that_is_not_there_is_no_fork(ends: dict[str, dict[str, Any]]) -> None:
    assert (ends["broken"]["started"], ends["broken"]["code"]) == (False, 128)


@pytest.mark.parametrize(
    "command",
    [
        ["python", "-m", "another"],
        ["python", "-c", "import warmed"],
        ["python"],
        ["sh", "-m", "warmed"],
        ["no-such-program", "-m", "warmed"],
    ],
)
def test_only_its_package_is_served(command: list[str]) -> None:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    assert not asyncio.run(WarmInterpreter("warmed.preload").serves(command, {"PATH": path}))


def test_what_libraries_read_once() -> None:
    given = {
        "HOME": "/h",
        "HF_TOKEN": "secret",
        "HF_HUB_OFFLINE": "1",
        "AWS_SECRET_ACCESS_KEY": "x",
        "PYTHONPATH": "/p",
    }
    assert read_once(given) == {"HOME": "/h", "HF_HUB_OFFLINE": "1", "PYTHONPATH": "/p"}
