"""Run by :func:`support.gangs.run_gang`, once per node: imports what trains once, and forks the node's processes."""

from __future__ import annotations

import os
import runpy
import signal
import sys

from finetune_api.plan import Device, World
from finetune_trainer.imports import training_process
from finetune_trainer.outcome import exit_at_once
from finetune_trainer.training.ranks import AWAITED, Family, rank_environment, ranks_of

_GRACE_SECONDS = 10


def main(nodes: int, processes: int, node: int, port: int, module: str, *arguments: str) -> int:
    """Runs ``python -m module arguments`` as every rank of one node; 0 when all of them ended well."""
    world = World(
        nodes=nodes,
        processes_per_node=processes,
        threads_per_process=1,
        device=Device.CPU,
        master_address="127.0.0.1",
        master_port=port,
    )
    training_process()
    assert len(os.listdir("/proc/self/task")) == 1, "a library has started a thread"
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    pids: dict[int, int] = {}
    for rank in ranks_of(world, node):
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
            os.environ.update(rank_environment(world, node, rank))
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            return 0
        pids[pid] = rank
    return int(any(Family(pids, _GRACE_SECONDS).wait().values()))


if __name__ == "__main__":
    exit_at_once(main(*map(int, sys.argv[1:5]), *sys.argv[5:]))
