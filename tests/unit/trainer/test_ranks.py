"""The parent of a pod's training processes: what they are told, and how it looks after them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.plan import JobReference, RunPlan, world_of
from finetune_trainer.training.ranks import rank_environment, ranks_of, read_ends
from finetune_trainer.workspace import Workspace
from support.training_runs import make_spec

# Only keeps a broken run from hanging the suite.
BOUND_SECONDS = 60

# A parent whose children run some Python each; it says how they ended.
_FAMILY = """
import json, signal, subprocess, sys
from finetune_trainer.training.ranks import AWAITED, Family
signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
free = lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
children = [subprocess.Popen([sys.executable, "-c", code], preexec_fn=free) for code in sys.argv[2:]]
ends = Family({child.pid: rank for rank, child in enumerate(children)}, float(sys.argv[1])).wait()
# A child may have ended in the middle of a line.
print("\\n" + json.dumps(ends))
"""
# The launcher's fork, whose launcher is gone: nobody else has the other end.
_PARENT = """
import sys
from multiprocessing import Pipe
from pathlib import Path
from finetune_trainer.main import read_plan
from finetune_trainer.training.ranks import run_parent
run_parent(read_plan(Path(sys.argv[1])), True, *Pipe(duplex=False))
"""
# Short naps: a signal that comes just before a long one begins would be handled after it.
_SLEEP = "import time; print('ready', flush=True); any(time.sleep(0.05) for _ in range(12_000))"
_STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_SLEEP}"
_ORDERLY = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(77)); {_SLEEP}"


def family(*children: str, grace: float = 30) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _FAMILY, str(grace), *children], stdout=subprocess.PIPE, text=True
    )


def ends_of(parent: subprocess.Popen[str]) -> dict[str, int]:
    told: dict[str, int] = json.loads(parent.communicate(timeout=BOUND_SECONDS)[0].splitlines()[-1])
    return told


@pytest.fixture
def plan() -> RunPlan:
    spec = make_spec(nodes=2, processes=2, micro_batch_size=1)
    world = world_of(spec, "tiny-1-0.tiny-1", 31234)
    job = JobReference(namespace="team", name="tiny", uid="7d1c")
    return RunPlan(job=job, attempt=1, spec=spec, world=world, stores={})


def test_what_a_rank_is_told(plan: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", raising=False)
    assert list(ranks_of(plan.world, 1)) == [2, 3]
    assert rank_environment(plan.world, 1, 3) == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "GROUP_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "tiny-1-0.tiny-1",
        "MASTER_PORT": "31234",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }


def test_all_are_waited_for(tmp_path: Path) -> None:
    assert ends_of(family("", "import time; time.sleep(0.3)", "")) == {"0": 0, "1": 0, "2": 0}


def test_one_that_fails_ends_the_others() -> None:
    assert ends_of(family(_SLEEP, "raise SystemExit(3)", _ORDERLY)) in (
        {"0": -signal.SIGTERM, "1": 3, "2": 77},
        # It was stopped before it had a handler.
        {"0": -signal.SIGTERM, "1": 3, "2": -signal.SIGTERM},
    )


def test_one_that_is_killed_is_told_from_one_that_failed() -> None:
    assert ends_of(family("import os; os.kill(os.getpid(), 9)", _SLEEP)) == {"0": -9, "1": -signal.SIGTERM}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_is_passed_on(number: signal.Signals) -> None:
    parent = family(_ORDERLY)
    assert parent.stdout
    assert parent.stdout.readline() == "ready\n"
    parent.send_signal(number)
    assert ends_of(parent) == {"0": 77}


def test_one_that_does_not_stop_is_killed_when_its_time_is_over() -> None:
    parent = family(_STUBBORN, grace=0.2)
    assert parent.stdout
    assert parent.stdout.readline() == "ready\n"
    parent.terminate()
    assert ends_of(parent) == {"0": -signal.SIGKILL}


def test_ends_are_read_as_they_were_told(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.outcomes.mkdir()
    assert read_ends(workspace) == {}
    workspace.ends.write_text(json.dumps({2: 0, 3: -9}))
    assert read_ends(workspace) == {2: 0, 3: -9}


def test_a_parent_that_is_not_told_to_go_starts_nothing(plan: RunPlan, tmp_path: Path) -> None:
    """As when the launcher cannot fetch the model: it is gone before the word comes."""
    (tmp_path / "plan.json").write_text(plan.to_json())
    command = [sys.executable, "-c", _PARENT, str(tmp_path / "plan.json")]
    environment = {**os.environ, "FINETUNE_WORKSPACE": str(tmp_path), "DS_ACCELERATOR": "none: nothing is imported"}
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=BOUND_SECONDS, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert not Workspace(tmp_path).outcomes.exists()
