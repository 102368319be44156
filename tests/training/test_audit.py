"""What came from a store is never run: an audit hook in every process of prepare, training, resume and export.

The second attempt finds its newest checkpoint damaged and goes on from the one before, which ends as an Event.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcomes import Stage
from finetune_api.plan import RunPlan, store_uses
from finetune_api.reports import ProgressReport
from finetune_api.results import Prepared
from finetune_operator.progress import Reports
from finetune_operator.reconcile import Reconciler
from support.builders import NAME, NAMESPACE, POLICY, UID
from support.listener import endpoint_of, listening
from support.tiny_model import write_chat_rows, write_tiny_model
from support.training_runs import BUCKET, make_plan, make_spec, start_pod, write_prepared_data
from support.world import World

HOOK = Path(__file__).parents[1] / "support" / "audited"
BOUND_SECONDS = 300
MARK = "planted by the audit's test"
STEPS = 6
# A pickle that runs code, by hand: the test must not depend on how pickle writes it.
PICKLE = b"cposix\nsystem\n(S'true'\ntR."
PICKLES = ("pytorch_model.bin", "adapter_model.bin", "model.pt", "training_args.bin", "tokenizer.pkl", "optimizer.pt")
CODE = f'MARK = "{MARK}"\n'
MODULES = ("modeling_llama.py", "tokenization_tiny.py", "sitecustomize.py", "tokenizers.py")

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Audit:
    """Processes whose doings are noted."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        watched = os.pathsep.join(str(self.folder / name) for name in ("store", "prepare", "first", "second"))
        log = str(self.folder / "audit")
        return {"PYTHONPATH": str(HOOK), "AUDIT_LOG": log, "AUDIT_WATCHED": watched, "AUDIT_MARK": MARK}

    def notes(self) -> list[dict[str, Any]]:
        log = self.folder / "audit"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def run(self, plan: RunPlan, name: str, stage: str) -> dict[str, Any]:
        """The outcome of a pod that must end well."""
        pod = start_pod(plan, self.folder / name, stage=stage, **self.environment)
        try:
            assert pod.wait(timeout=BOUND_SECONDS) == 0, (self.folder / name / "log").read_text()[-6000:]
        finally:
            pod.kill()
        outcome: dict[str, Any] = json.loads((self.folder / name / "termination-log").read_text())
        return outcome


def plant(folder: Path) -> None:
    """What nobody may touch: pickles and code, beside what is read."""
    for name in PICKLES:
        (folder / name).write_bytes(PICKLE)
    for name in MODULES:
        (folder / name).write_text(CODE)


def make_site(store: Path) -> RunPlan:
    """Model and data in a store, with planted files beside them, and a plan to prepare them."""
    bucket = store / BUCKET
    write_tiny_model(bucket / "model")
    for split in ("train", "validation"):
        write_chat_rows(bucket / "data" / f"{split}.jsonl", 24)
    for folder in ("model", "data"):
        plant(bucket / folder)
    summary = write_prepared_data(bucket / "unused")
    spec = make_spec(stage=2, maxSteps=STEPS)
    checkpoint = {"everySteps": 2, "keep": 5, "keepAfterSuccess": True}
    plan = make_plan(store, type(spec).model_validate(spec.to_wire() | {"checkpoint": checkpoint}), summary)
    access = plan.stores["output"]
    return plan.model_copy(update={"prepared": None, "stores": dict.fromkeys(store_uses(plan.spec), access)})


def merged(plan: RunPlan) -> RunPlan:
    """The second attempt of a plan, which publishes a whole model."""
    output = plan.spec.to_wire()["output"] | {"artifact": "Merged"}
    spec = type(plan.spec).model_validate(plan.spec.to_wire() | {"output": output})
    return plan.model_copy(update={"attempt": 2, "spec": spec})


def flip(file: Path) -> None:
    """Damages one byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return Audit(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def heard(audit: Audit) -> list[dict[str, Any]]:
    """What the second attempt reported, after prepare, training, damage, resume and the export of adapter and model."""
    plan = make_site(audit.folder / "store")
    prepared = Prepared.model_validate(audit.run(plan, "prepare", "prepare")["prepared"])
    first = plan.model_copy(update={"prepared": prepared})
    assert audit.run(first, "first", "train")["artifact"]["kind"] == "adapter"
    saved = sorted((audit.folder / "store").glob("**/_checkpoints/*/step-*"))
    assert len(saved) > 1
    for folder in saved:
        plant(folder)
    flip(saved[-1] / "rank-00000.safetensors")
    with listening() as (url, reports):
        second = merged(first).model_copy(update={"progress": endpoint_of(url, audit.folder)})
        assert audit.run(second, "second", "train")["artifact"]["kind"] == "model"
    assert f"checkpoint {saved[-1].name} cannot be used" in (audit.folder / "second" / "log").read_text()
    return reports


def of_our_own(note: Mapping[str, Any]) -> bool:
    """Whether bytes were unpickled that this very gang has made: objects that its ranks send to each other."""
    return any("torch/distributed/distributed_c10d.py" in place for place in note["stack"])


@pytest.mark.usefixtures("heard")
def test_nothing_that_came_from_a_store_is_run(audit: Audit) -> None:
    assert [note for note in audit.notes() if not of_our_own(note)] == []


def test_a_damaged_checkpoint_ends_as_an_event(heard: list[dict[str, Any]]) -> None:
    last = ProgressReport.model_validate(heard[-1])
    assert last.resumed_from_step is not None
    assert last.damaged
    world, reports = World(nodes=1), Reports()
    world.reconciler = Reconciler(world.kube, POLICY, reports, world.now)
    while not world.jobs(Stage.TRAIN):
        world.reconcile()
        world.control_jobs()
        world.start_pods()
        for job in world.jobs(Stage.PREPARE):
            world.succeed(job)
        world.control_jobs()
    reports.accept(NAMESPACE, NAME, last.model_copy(update={"uid": UID, "attempt": 1}))
    world.reconcile()
    (event,) = [event for event in world.kube.of("events") if event["reason"] == "CheckpointDamaged"]
    assert event["note"] == (
        f"attempt 1 passed over damaged checkpoints and began after step {last.resumed_from_step}: {last.damaged[0]}"
    )


# By name: what does harm, given the folder that is watched, and the event that tells of it.
CONTROLS = {
    "pickle": ("import pickle; pickle.load(open(folder + '/optimizer.pt', 'rb'))", "pickle.find_class"),
    "pickle without C": ("import pickle; pickle._load(open(folder + '/optimizer.pt', 'rb'))", "pickle.find_class"),
    "shelve": (
        "import shelve, pickle, pathlib\nwith shelve.open(folder + '/s') as s: s['a'] = pathlib.PurePath('x')\n"
        "with shelve.open(folder + '/s') as s: s['a']",
        "pickle.find_class",
    ),
    "numpy": (
        "import numpy as np; np.save(folder + '/a.npy', np.array([{}], object)); "
        "np.load(folder + '/a.npy', allow_pickle=True)",
        "pickle.find_class",
    ),
    "marshal": ("import marshal; marshal.loads(marshal.dumps(1))", "marshal.loads"),
    "import": ("import sys; sys.path.append(folder); import modeling_llama", "import"),
    "exec": ("exec(open(folder + '/modeling_llama.py').read())", "compile"),
    "run": ("import runpy; runpy.run_path(folder + '/modeling_llama.py')", "exec"),
    "library": (
        "import ctypes, shutil, ctypes.util, _ctypes; shutil.copy(_ctypes.__file__, folder + '/lib.so'); "
        "ctypes.CDLL(folder + '/lib.so')",
        "ctypes.dlopen",
    ),
    "torch": (
        "import torch; torch.save({}, folder + '/x.pt'); import json; torch.load(folder + '/x.pt', weights_only=True)",
        "torch.load",
    ),
}


@pytest.mark.parametrize("case", CONTROLS)
def test_the_audit_sees_what_it_looks_for(tmp_path: Path, case: str) -> None:
    harm, event = CONTROLS[case]
    audit = Audit(tmp_path)
    folder = tmp_path / "store"
    folder.mkdir()
    plant(folder)
    environment = os.environ | audit.environment
    program = f"folder = {str(folder)!r}\n{harm}"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert event in {note["event"] for note in audit.notes()}
