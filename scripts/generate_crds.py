"""Writes crds/ from the models in finetune_api; with --check only says whether the committed files are current."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from finetune_api.crd import job_crd, profile_crd

FOLDER = Path(__file__).resolve().parent.parent / "crds"
HEADER = "# Generated from api/ by `make crds`. Do not edit.\n"


class _Dumper(yaml.SafeDumper):
    """Writes every list in full: aliases are legal YAML but hard to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_NUMBER = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?")


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Quotes text that looks like a number: PyYAML leaves 2e-4 bare, which other parsers read as a float."""
    style = "'" if _NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _dump(document: dict[str, Any]) -> str:
    return HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120)


def rendered() -> dict[str, str]:
    """Content of every generated file by name."""
    crds = {"finetune.dev_finetunejobs.yaml": job_crd(), "finetune.dev_finetuneprofiles.yaml": profile_crd()}
    files = {name: _dump(crd) for name, crd in crds.items()}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(crds),
    }
    return files | {"kustomization.yaml": _dump(kustomization)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a file differs")
    check = parser.parse_args().check
    stale = []
    for name, text in rendered().items():
        path = FOLDER / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text)
    if check and stale:
        print(f"crds/ is behind api/: {', '.join(stale)}. Run `make crds` and commit.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
