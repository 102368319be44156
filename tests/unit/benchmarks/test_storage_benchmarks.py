"""Both clients of a benchmark of uploads are measured over the same network, whatever the machine's is like."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from support.clusters import PROJECT

sys.path.insert(0, str(PROJECT))

from benchmarks.storage.network import ENTERED, command

_LOOK = """
import json, socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
control = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode()
print(json.dumps([control, [name for _, name in socket.if_nameindex()]]))
"""


def test_a_network_of_its_own_has_linux_default_congestion_control() -> None:
    done = subprocess.run(command([sys.executable, "-c", _LOOK]), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    control, devices = json.loads(done.stdout)
    assert control == "cubic"
    assert devices[0] == "lo"


def test_how_a_program_ends_is_told() -> None:
    done = subprocess.run(command([sys.executable, "-c", "raise SystemExit(3)"]), capture_output=True, check=False)
    assert done.returncode == 3


@pytest.mark.parametrize(("entered", "expected"), [({}, platform.platform()), ({ENTERED: "1"}, "went on")])
def test_a_benchmark_is_started_again_in_it_once(entered: dict[str, str], expected: str) -> None:
    code = "from benchmarks.storage.network import enter; enter('platform', []); print('went on')"
    variables = {name: value for name, value in os.environ.items() if name != ENTERED} | entered
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=variables, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr
