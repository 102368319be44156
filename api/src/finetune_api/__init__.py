"""The contract between the rooms: resource types, run plan, reports, outcomes and the layout in object storage."""

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"

__all__ = ["API_VERSION", "GROUP", "KIND", "PLURAL", "VERSION"]
