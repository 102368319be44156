"""The import contracts of .importlinter hold."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

from support.clusters import PROJECT
from support.sources import PACKAGES


def _contracts() -> ConfigParser:
    parser = ConfigParser()
    parser.read(PROJECT / ".importlinter")
    return parser


def test_contracts_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken." in result.stdout


def test_every_package_is_under_contract() -> None:
    packages = {
        path.name for folder in PACKAGES for path in (PROJECT / folder).iterdir() if (path / "__init__.py").exists()
    }
    assert set(_contracts()["importlinter"]["root_packages"].split()) == packages


def test_rooms_are_independent_and_stand_on_the_contract_package() -> None:
    rooms, ground = _contracts()["importlinter:contract:rooms"]["layers"].strip().splitlines()
    assert ground.strip() == "finetune_api"
    names = {name.strip() for name in rooms.split("|")}
    assert names == {"finetune_operator", "finetune_trainer", "finetune_cli", "finetune_sandbox"}
