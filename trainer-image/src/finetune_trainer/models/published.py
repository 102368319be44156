"""Results of other jobs, as ``job://`` names them, checked against what these jobs' status says; and the adapter, of
another job or from elsewhere, that training starts from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from finetune_api.layout import MANIFEST
from finetune_api.plan import RunPlan
from finetune_api.uris import parse_destination
from finetune_api.weights import ADAPTER, MODEL, REFERENCE
from finetune_trainer.errors import NotSafetensors, UserError
from finetune_trainer.models.modelfiles import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, TOKENIZER_FILES, Json
from finetune_trainer.models.modelsource import ModelSource
from finetune_trainer.models.places import find_weights
from finetune_trainer.models.safetensors_header import TensorInfo, read_file_header
from finetune_trainer.models.stored import StoredModel
from finetune_trainer.storage.digests import file_sha256
from finetune_trainer.storage.stores import store_of

_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
_COPY = "copy the adapter again, whole"


def check_manifests(plan: RunPlan, environment: Mapping[str, str]) -> None:
    """Checks that the artifacts of the jobs that ``job://`` named are those of these jobs' status.

    Raises:
        UserError: one is gone, or another one.
        StorageError: its store cannot be reached.
    """
    for use, upstream in plan.upstreams.items():
        if use == REFERENCE:
            # Looked at as the model of a plan of its own.
            continue
        store = store_of(plan, ADAPTER if use == MODEL and upstream.is_adapter else use, environment)
        place = parse_destination(upstream.uri).child(MANIFEST)
        found = hashlib.sha256(store.read(place)).hexdigest() if store.stat(place) else None
        if f"sha256:{found}" != upstream.manifest_digest:
            raise UserError(
                f"the artifact of the job {upstream.job!r} at {upstream.uri} is no longer what that job published",
                f"run the job {upstream.job!r} again, then this one under another name",
            )


class StartAdapter:
    """The adapter that training starts from: that of the job which ``spec.model.source`` names, or the one of
    ``spec.method.lora.initialAdapter``."""

    def __init__(self, files: ModelSource, named: str, retokenizes: bool) -> None:
        absent = [name for name in _FILES if name not in files.names]
        if absent:
            raise UserError(f"{named} is no adapter: it has no {absent[0]}", _remedy_without(absent[0], files.names))
        self.files, self.named, self.retokenizes = files, named, retokenizes

    @classmethod
    def of(cls, plan: RunPlan, environment: Mapping[str, str]) -> StartAdapter | None:
        """The adapter of a plan; None when it starts from none.

        Raises:
            UserError: it is not there.
            StorageError: its place cannot be reached.
        """
        upstream, initial = plan.upstream, plan.spec.method.initial_adapter
        if upstream and upstream.is_adapter:
            files = StoredModel(plan, environment, parse_destination(upstream.uri), ADAPTER)
            return cls(files, f"{upstream.uri} of spec.model.source", retokenizes=True)
        if initial is None:
            return None
        named = f"{initial.source} of spec.method.lora.initialAdapter.source"
        return cls(find_weights(plan, ADAPTER, environment), named, retokenizes=False)

    @property
    def config(self) -> Json:
        """adapter_config.json.

        Raises:
            UserError: it is none.
        """
        with TemporaryDirectory() as folder:
            self.files.place([ADAPTER_CONFIG], Path(folder))
            content = (Path(folder) / ADAPTER_CONFIG).read_bytes()
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else error
            raise UserError(f"{self.named} is no adapter: {ADAPTER_CONFIG} is not JSON ({reason})", _COPY) from error
        if not isinstance(document, dict):
            raise UserError(f"{self.named} is no adapter: {ADAPTER_CONFIG} is not a JSON object", _COPY)
        return document

    def shapes(self, scratch: Path) -> dict[str, tuple[int, ...]]:
        """Shapes of its tensors by name; a file that says them only as a whole is placed in ``scratch``.

        Raises:
            UserError: the weights are no safetensors file.
        """
        try:
            header = self.files.weight_header(ADAPTER_WEIGHTS)
            if header is None:
                self.place(scratch)
                header = read_file_header(scratch / ADAPTER_WEIGHTS)
        except NotSafetensors as error:
            why = f"{ADAPTER_WEIGHTS} is no safetensors file: {error.reason}"
            raise UserError(f"{self.named} is no adapter: {why}", _COPY) from error
        return {name: tensor.shape for name, tensor in header.items()}

    def sha256(self) -> dict[str, str]:
        """Hexadecimal SHA-256 of the files that make the adapter, by name."""
        return {name: self._sha256(name) for name in _FILES}

    def _sha256(self, name: str) -> str:
        known = self.files.weight_sha256(name)
        if known is not None:
            return known
        with TemporaryDirectory() as folder:
            self.files.place([name], Path(folder))
            return file_sha256(Path(folder) / name)

    def place(self, folder: Path) -> None:
        """Puts the adapter, alone, into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.files.place(_FILES, folder)


def _remedy_without(absent: str, names: Collection[str]) -> str:
    if absent == ADAPTER_WEIGHTS and "adapter_model.bin" in names:
        return "convert it: PeftModel.from_pretrained(BASE, FOLDER).save_pretrained(FOLDER) writes safetensors"
    if absent == ADAPTER_CONFIG and CONFIG in names:
        return "name a whole model in spec.model.source, and no initial adapter"
    return "run the job that published it again, or correct the source: a folder in PEFT's layout"


class Retokenized:
    """A base model with the tokenizer and chat template that an adapter was trained with."""

    def __init__(self, base: ModelSource, adapter: StartAdapter) -> None:
        self._base, self._adapter = base, adapter.files
        self._own = frozenset(name for name in adapter.files.names if name in TOKENIZER_FILES)

    @property
    def revision(self) -> str | None:
        return self._base.revision

    @property
    def names(self) -> Collection[str]:
        return self._own | {name for name in self._base.names if name not in TOKENIZER_FILES}

    def place(self, names: Collection[str], folder: Path) -> None:
        self._adapter.place([name for name in names if name in self._own], folder)
        self._base.place([name for name in names if name not in self._own], folder)

    def weight_sha256(self, name: str) -> str | None:
        return self._base.weight_sha256(name)

    def weight_header(self, name: str) -> Mapping[str, TensorInfo] | None:
        return self._base.weight_header(name)
