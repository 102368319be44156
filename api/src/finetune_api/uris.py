"""Source URIs of the resource: hf://org/name, s3://bucket/key, pvc://claim/path, job://name; https:// for data."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.errors import InvalidSource

JOB_SCHEME = "job://"


@dataclass(frozen=True)
class S3Location:
    """An object or prefix; ``key`` has no leading and no trailing slash."""

    bucket: str
    key: str

    def child(self, *parts: str) -> S3Location:
        return S3Location(self.bucket, "/".join(part for part in (self.key, *parts) if part))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")


@dataclass(frozen=True)
class ClaimLocation:
    """A file or folder inside a PersistentVolumeClaim; ``path`` is relative to its root."""

    claim: str
    path: str

    def __str__(self) -> str:
        return f"pvc://{self.claim}/{self.path}".rstrip("/")


@dataclass(frozen=True)
class HubModel:
    """A repository on a Hugging Face hub."""

    repository: str

    def __str__(self) -> str:
        return f"hf://{self.repository}"


@dataclass(frozen=True)
class JobResult:
    """What another FineTuneJob of the same namespace publishes."""

    job: str

    def __str__(self) -> str:
        return f"{JOB_SCHEME}{self.job}"


@dataclass(frozen=True)
class HubFiles:
    """A file or folder of a dataset repository on a Hugging Face hub; ``path`` is empty for the whole of it."""

    repository: str
    path: str

    def __str__(self) -> str:
        return f"hf://{self.repository}/{self.path}".rstrip("/")


@dataclass(frozen=True)
class WebFile:
    """One file behind an https:// URL."""

    url: str

    def __str__(self) -> str:
        return self.url


Location = S3Location | ClaimLocation | HubModel | JobResult
DataLocation = S3Location | ClaimLocation | HubFiles | WebFile


def parse_source(uri: str) -> Location:
    """Reads a source URI.

    Raises:
        InvalidSource: unknown scheme, missing bucket, claim or repository, or a path that may lead elsewhere.
    """
    scheme, separator, rest = uri.partition("://")
    root, _, path = rest.partition("/")
    if not separator or not root:
        raise InvalidSource(f"{uri!r} is not a source: use s3://bucket/path, pvc://claim/path or hf://org/name")
    path = path.removesuffix("/")
    if any(part in ("..", ".") for part in path.split("/")):
        raise InvalidSource(f"{uri!r} must not contain '.' or '..' as a path segment")
    # Some stores take a//b for a/b, others do not: what is allowed of one would lead elsewhere in the other.
    if path and "" in path.split("/"):
        raise InvalidSource(f"{uri!r} must not contain an empty path segment ('//')")
    match scheme:
        case "s3":
            return S3Location(root, path)
        case "pvc":
            return ClaimLocation(root, path)
        case "hf":
            return HubModel(rest.strip("/"))
        case "job":
            return JobResult(root)
    raise InvalidSource(f"{uri!r} has the unknown scheme {scheme!r}: use s3://, pvc://, hf:// or job://")


def job_named(uri: str) -> str | None:
    """Name of the job whose result a source asks for, or None."""
    return uri.removeprefix(JOB_SCHEME) if uri.startswith(JOB_SCHEME) else None


def parse_data_source(uri: str) -> DataLocation:
    """Reads a source of data.

    Raises:
        InvalidSource: see :func:`parse_source`.
    """
    if uri.startswith("https://"):
        return WebFile(uri)
    location = parse_source(uri)
    if isinstance(location, HubModel):
        org, _, rest = location.repository.partition("/")
        name, _, path = rest.partition("/")
        return HubFiles(f"{org}/{name}", path)
    if isinstance(location, JobResult):
        raise InvalidSource(f"{uri!r} is no data: use s3://, pvc://, hf:// or https://")
    return location


def parse_destination(uri: str) -> S3Location:
    """Reads an output destination, which is always ``s3://bucket/prefix``.

    Raises:
        InvalidSource: any other scheme, or characters that some store or proxy takes for a slash or a dot.
    """
    location = parse_source(uri)
    if "%" in uri or "\\" in uri:
        raise InvalidSource(f"{uri!r} cannot be written to: a destination holds no '%' and no backslash")
    if not isinstance(location, S3Location):
        raise InvalidSource(f"{uri!r} cannot be written to: use s3://bucket/prefix")
    return location
