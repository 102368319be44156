"""Trainer processes get their place in the environment and leave nothing behind."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.outcomes import Failure, FailureClass, Stage, StageOutcome
from finetune_cli.local.processes import NodeProcess, kill_run, start_node, stop_nodes

Start = Callable[..., NodeProcess]


@pytest.fixture
def run() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def start(tmp_path: Path, run: str) -> Start:
    def started(program: str, node: int = 0) -> NodeProcess:
        return start_node(
            Stage.TRAIN, node, run, tmp_path / "plan.json", tmp_path, os.environ, (sys.executable, "-c", program)
        )

    return started


def wait_for(file: Path) -> str:
    """Content of a file that a process is about to write."""
    deadline = time.monotonic() + 30
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{file} was not written"
        time.sleep(0.02)
    return file.read_text().strip()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_gets_arguments_and_a_place_of_its_own(start: Start, tmp_path: Path) -> None:
    names = ("JOB_COMPLETION_INDEX", "FINETUNE_WORKSPACE", "FINETUNE_TERMINATION_LOG")
    node = start(f"import os, sys; print(sys.argv[1:], os.getcwd(), *(os.environ[name] for name in {names}))", node=1)
    node.process.wait()

    folder = tmp_path / "train-1"
    expected = f"['train', '--plan', '{tmp_path}/plan.json'] {folder} 1 {folder} {tmp_path}/train-1.outcome.json"
    assert node.log_tail() == expected
    assert (node.exit_code, node.outcome()) == (0, None)


def test_helpers_beside_the_interpreter_are_found_first(start: Start) -> None:
    node = start("import os; print(os.environ['PATH'].split(os.pathsep)[0])")
    node.process.wait()

    assert node.log_tail() == str(Path(sys.executable).parent)


def test_the_outcome_is_read_from_the_termination_log(start: Start) -> None:
    failure = Failure(failure_class=FailureClass.DIVERGED, message="NaN", remedy="-")
    outcome = StageOutcome(stage=Stage.TRAIN, failure=failure)
    node = start(f"import os; open(os.environ['FINETUNE_TERMINATION_LOG'], 'w').write({outcome.to_json()!r})")
    node.process.wait()

    assert node.outcome() == outcome


def test_stopping_lets_a_process_say_its_last_words(start: Start, run: str, tmp_path: Path) -> None:
    node = start(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('leaving'), sys.exit(17)))\n"
        "open('ready', 'w').write('yes\\n')\n"
        "time.sleep(600)\n"
    )
    wait_for(tmp_path / "train-0" / "ready")

    stop_nodes([node], run)

    assert (node.exit_code, node.log_tail()) == (17, "leaving")


def test_stopping_kills_what_does_not_listen_and_what_escaped(start: Start, run: str, tmp_path: Path) -> None:
    node = start(
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "open('child', 'w').write(f'{child.pid}\\n')\n"
        "time.sleep(600)\n"
    )
    child = int(wait_for(tmp_path / "train-0" / "child"))
    assert is_alive(child)

    stop_nodes([node], run, grace=0.2)

    assert node.exit_code == -9
    assert not is_alive(child)


def test_killing_one_run_spares_the_others(start: Start, run: str) -> None:
    node = start("import time; time.sleep(600)")

    kill_run(uuid.uuid4().hex)
    assert node.exit_code is None

    stop_nodes([node], run)
    assert node.exit_code == -15
