"""FineTuneProfiles for tests."""

from __future__ import annotations

from typing import Any

from finetune_api import API_VERSION
from finetune_api.profile import PROFILE_KIND, FineTuneProfileSpec

Object = dict[str, Any]
IMAGE = "registry.example/trainer@sha256:" + "a" * 64


def profile(name: str = "standard", **spec: Any) -> Object:
    """A profile as the API server gives it back."""
    metadata = {"name": name, "generation": 3}
    return {"apiVersion": API_VERSION, "kind": PROFILE_KIND, "metadata": metadata, "spec": spec}


def profile_spec(**spec: Any) -> FineTuneProfileSpec:
    return FineTuneProfileSpec.model_validate(spec)
