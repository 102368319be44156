"""Builds the images and starts each: ``python scripts/images.py [--variant cpu|cuda] [--tag TAG]``.

Needs docker, podman or buildah with podman; CI and releases run the same.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
TOOLS = ("docker", "podman")


@dataclass(frozen=True)
class Image:
    """An image of this project.

    Attributes:
        dockerfile: relative to the project.
        variants: build arguments of each variant; the first is the default.
    """

    name: str
    dockerfile: str
    variants: dict[str, tuple[str, ...]]


IMAGES = (
    Image("finetune-operator", "operator/Dockerfile", {"": ()}),
    Image("finetune-trainer", "trainer-image/Dockerfile", {"cuda": (), "cpu": (f"TORCH_INDEX={CPU_WHEELS}",)}),
)


def reference(image: Image, variant: str, tag: str) -> str:
    """What an image is called; a variant that is not the default is part of the tag."""
    return f"{image.name}:{tag}" if variant == next(iter(image.variants)) else f"{image.name}:{tag}-{variant}"


def build_command(tool: str, image: Image, variant: str, tag: str) -> list[str]:
    """The command that builds an image, from the project's root."""
    arguments = [word for value in image.variants[variant] for word in ("--build-arg", value)]
    return [tool, "build", "--file", image.dockerfile, "--tag", reference(image, variant, tag), *arguments, "."]


def start_command(tool: str, name: str) -> list[str]:
    """The command that starts an image as a cluster does, with as little as it needs: it prints its usage and ends."""
    limits = ("--read-only", "--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges")
    return [tool, "run", "--rm", *limits, name, "--help"]


def builder(tools: Sequence[str] = TOOLS) -> str | None:
    """The first tool that is installed and works."""
    for tool in tools:
        if shutil.which(tool) and subprocess.run([tool, "info"], capture_output=True).returncode == 0:
            return tool
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=("cuda", "cpu"), default="cpu", help="of the trainer's image")
    parser.add_argument("--tag", default="dev")
    options = parser.parse_args()
    tool = builder()
    if tool is None:
        print(f"no working {' or '.join(TOOLS)} here", file=sys.stderr)
        return 69
    for image in IMAGES:
        variant = options.variant if options.variant in image.variants else next(iter(image.variants))
        subprocess.run(build_command(tool, image, variant, options.tag), check=True, cwd=PROJECT)
        subprocess.run(start_command(tool, reference(image, variant, options.tag)), check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
