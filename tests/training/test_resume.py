"""An interrupted training that goes on from its checkpoint gives what an undisturbed one gives."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support.gangs import run_gang
from support.tiny_model import write_tiny_model
from support.training_runs import BUCKET, make_plan, make_spec, write_prepared_data

STEPS = 8
LOSS_TOLERANCE = 1e-5
# Losses and weights of one precision, whatever the stage: at a learning rate of 1e-3, one bfloat16 gradient that rounds
# to another sign moves a weight by two steps of Adam.
TOLERANCES = {"fp32": (LOSS_TOLERANCE, 2e-6), "bf16": (1e-3, 1e-2)}
Case = tuple[str, str, int, str]
# Tuning, precision, ZeRO stage, dropout: it draws random numbers, and a run that goes on has to draw the next ones.
CASES: list[Case] = [
    ("full", "fp32", 0, "0"),
    ("full", "fp32", 2, "0"),
    ("full", "fp32", 3, "0"),
    ("lora", "fp32", 1, "0"),
    ("lora", "fp32", 3, "0"),
    ("lora", "bf16", 2, "0.1"),
    ("full", "bf16", 1, "0"),
    ("full", "bf16", 3, "0"),
]
INTERRUPTIONS = {"stop": 5, "crash": 7}
# Between these numbers of processes, float32 only: bfloat16 rounds differently with each way to spread a batch.
MOVES = [(1, 2), (2, 1), (2, 4), (4, 2)]
MOVED = [case for case in CASES if case[1] == "fp32"]
# From one ZeRO stage to another, which the operator also does when memory has run out.
STAGES: list[tuple[Case, int]] = [
    (("lora", "fp32", 2, "0"), 3),
    (("lora", "fp32", 1, "0"), 2),
    (("full", "fp32", 3, "0"), 1),
    (("full", "bf16", 1, "0"), 2),
    (("full", "bf16", 3, "0"), 1),
    (("lora", "bf16", 2, "0.1"), 3),
]
EIGHT_BITS: list[Case] = [("full", "fp32", 2, "0"), ("full", "fp32", 3, "0")]
PROCESSES = 2
RUN_ID = "r-" + "0" * 20

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # The first test of a world waits for all its runs.
    pytest.mark.timeout(600),
]


class Worlds:
    """Trained workspaces by number of processes, made by one gang each."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.store = folder, folder / "store"
        write_tiny_model(self.store / BUCKET / "model")
        self._summary = write_prepared_data(self.store / BUCKET / "prepared")
        self.first = cache(self._first)
        self.moved = cache(self._moved)

    def _first(self, processes: int) -> Path:
        """Undisturbed, stopped and failed runs of all cases, and for each of the latter one that goes on."""
        folder = self._folder / f"first-{processes}"
        for case in CASES if processes == PROCESSES else ():
            self._write(folder / f"{name(case)}-undisturbed", case, processes, job=f"{name(case)}-undisturbed")
            for how, at in INTERRUPTIONS.items():
                job = f"{name(case)}-{how}"
                self._write(folder / f"{job}-1", case, processes, job=job, interrupt=f"{how} {at}")
                self._write(folder / f"{job}-2", case, processes, job=job)
        for case, stage in STAGES if processes == PROCESSES else ():
            job, other = moved_name(case, stage), (*case[:2], stage, case[3])
            self._write(folder / f"{job}-1", case, processes, job=job, interrupt="stop 5")
            self._write(folder / f"{job}-2", other, processes, job=job)
        for number, case in enumerate(EIGHT_BITS if processes == PROCESSES else ()):
            stop = None if number else "stop 5"
            self._write(folder / f"8bit-{number}", case, processes, job="8bit", interrupt=stop, optimizer="adamw8bit")
        for _, after in [move for move in MOVES if move[0] == processes]:
            for case in MOVED:
                job = f"{name(case)}-{processes}-to-{after}"
                self._write(folder / job, case, processes, job=job, interrupt="stop 5")
        run_gang(folder, 1, processes, "support.resume_matrix", str(folder), seconds=500)
        return folder

    def _moved(self, processes: int) -> Path:
        folder = self._folder / f"moved-{processes}"
        for before, _ in [move for move in MOVES if move[1] == processes]:
            self.first(before)
            for case in MOVED:
                job = f"{name(case)}-{before}-to-{processes}"
                self._write(folder / f"{name(case)}-from-{before}", case, processes, job=job)
        run_gang(folder, 1, processes, "support.resume_matrix", str(folder), seconds=500)
        return folder

    def _write(
        self,
        workspace: Path,
        case: Case,
        processes: int,
        *,
        job: str,
        interrupt: str | None = None,
        optimizer: str = "adamw",
    ) -> None:
        tuning, precision, stage, dropout = case
        lora = {"rank": 4, "alpha": 8, "dropout": dropout}
        spec = make_spec(
            tuning=tuning,
            precision=precision,
            stage=stage,
            processes=processes,
            maxSteps=STEPS,
            schedule="linear",
            optimizer=optimizer,
        )
        wire = spec.to_wire() | {"checkpoint": {"everySteps": 3, "keep": 3}}
        wire["method"] = {"tuning": tuning} | ({"lora": lora} if tuning == "lora" else {})
        wire["evaluation"] = {"everySteps": 4}
        plan = make_plan(self.store, type(spec).model_validate(wire), self._summary)
        assert plan.prepared is not None
        # The run ID knows nothing of resources, but that of the helper does.
        prepared = plan.prepared.model_copy(update={"run_id": RUN_ID})
        plan = plan.model_copy(update={"job": plan.job.model_copy(update={"name": job}), "prepared": prepared})
        workspace.mkdir(parents=True)
        (workspace / "plan.json").write_text(plan.to_json())
        (workspace / "model").symlink_to(self.store / BUCKET / "model")
        (workspace / "data").symlink_to(self.store / BUCKET / "prepared")
        if interrupt:
            (workspace / "interrupt").write_text(interrupt)


def name(case: Case) -> str:
    return "-".join(map(str, case)).replace(".", "")


def moved_name(case: Case, stage: int) -> str:
    return f"{name(case)}-to-stage-{stage}"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return Worlds(tmp_path_factory.mktemp("resume"))


def metrics(workspace: Path) -> list[dict[str, Any]]:
    """Everything measured, without what differs from run to run."""
    lines = (workspace / "artifact" / "metrics.jsonl").read_text().splitlines()
    own = {"seconds", "time", "memoryBytes"}
    return [{key: value for key, value in json.loads(line).items() if key not in own} for line in lines]


def weights(workspace: Path) -> dict[str, torch.Tensor]:
    (file,) = (workspace / "artifact").glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("how", INTERRUPTIONS)
@pytest.mark.parametrize("case", CASES, ids=name)
def test_the_same_processes_give_the_same_bits(worlds: Worlds, case: Case, how: str) -> None:
    folder = worlds.first(PROCESSES)
    undisturbed, resumed = folder / f"{name(case)}-undisturbed", folder / f"{name(case)}-{how}-2"
    assert metrics(resumed) == metrics(undisturbed)
    expected, found = weights(undisturbed), weights(resumed)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert json.loads((resumed / "resumption.json").read_text())["step"] == 6


@pytest.mark.parametrize(("before", "after"), MOVES)
@pytest.mark.parametrize("case", MOVED, ids=name)
def test_other_processes_give_the_same_losses(worlds: Worlds, case: Case, before: int, after: int) -> None:
    undisturbed = metrics(worlds.first(PROCESSES) / f"{name(case)}-undisturbed")
    resumed = worlds.moved(after) / f"{name(case)}-from-{before}"
    losses = [line["loss"] for line in metrics(resumed)]
    assert losses == pytest.approx([line["loss"] for line in undisturbed], abs=LOSS_TOLERANCE)
    assert json.loads((resumed / "resumption.json").read_text())["step"] == 6


@pytest.mark.parametrize(("case", "stage"), STAGES, ids=lambda value: name(value) if isinstance(value, tuple) else None)
def test_another_stage_gives_the_same_losses_and_weights(worlds: Worlds, case: Case, stage: int) -> None:
    folder = worlds.first(PROCESSES)
    like = next(other for other in CASES if (*other[:2], other[3]) == (*case[:2], case[3]))
    undisturbed, resumed = folder / f"{name(like)}-undisturbed", folder / f"{moved_name(case, stage)}-2"
    assert json.loads((resumed / "resumption.json").read_text()) == {"step": 6, "damaged": []}
    of_losses, of_weights = TOLERANCES[case[1]]
    losses = [line["loss"] for line in metrics(resumed)]
    assert losses == pytest.approx([line["loss"] for line in metrics(undisturbed)], abs=of_losses, rel=0)
    expected, found = weights(undisturbed), weights(resumed)
    assert max(float((found[key] - value).float().abs().max()) for key, value in expected.items()) <= of_weights


def test_moments_in_8_bits_are_passed_over_at_another_stage(worlds: Worlds) -> None:
    folder = worlds.first(PROCESSES)
    found = json.loads((folder / "8bit-1" / "resumption.json").read_text())
    assert found["step"] is None
    assert [name.partition("-")[2][:9] for name in found["damaged"]] == ["000000006", "000000003"]
    assert [line["step"] for line in metrics(folder / "8bit-1") if line["kind"] == "step"] == list(range(1, STEPS + 1))
    log = (folder / "node-0.log").read_text()
    assert re.search(r"cannot be used: the optimizer's \w+ cannot be shared out anew", log)
