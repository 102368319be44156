"""The plan of a container's root, on host file systems that are written down here."""

from __future__ import annotations

import posixpath

import pytest

from finetune_sandbox.node.rootfs import EntryKind, Mount, Operation, keep_visible, plan_root


class Host:
    """A host whose folders, files and links are given; a link is ``path -> destination``."""

    def __init__(self, folders: list[str], files: list[str] | None = None, links: dict[str, str] | None = None) -> None:
        self.links = links or {}
        self.kinds: dict[str, EntryKind] = {"/": "dir"}
        self.kinds |= dict.fromkeys(folders, "dir") | dict.fromkeys(files or [], "file")
        self.kinds |= dict.fromkeys(self.links, "link")

    def kind(self, path: str) -> EntryKind | None:
        return self.kinds.get(path)

    def entries(self, path: str) -> list[str]:
        return sorted(
            posixpath.basename(each) for each in self.kinds if each != "/" and posixpath.dirname(each) == path
        )

    def link(self, path: str) -> str:
        return self.links[path]

    def resolve(self, path: str) -> str:
        for link, destination in self.links.items():
            if path == link or path.startswith(link + "/"):
                return destination + path.removeprefix(link)
        return path


HOST = Host(
    ["/usr", "/usr/lib", "/etc", "/run", "/var", "/dev", "/dev/pts", "/proc", "/tmp"],
    ["/etc/hosts", "/etc/passwd", "/dev/null"],
    {"/bin": "/usr/bin", "/var/run": "/run"},
)


def operations(*mounts: Mount, host: Host = HOST) -> list[Operation]:
    return plan_root(list(mounts), host)


def test_root_shows_the_hosts_entries_and_makes_its_own_devices() -> None:
    assert operations() == [
        ("dir", "/"),
        ("link", "/bin", "/usr/bin"),
        *[step for path in ("/etc", "/run", "/tmp", "/usr", "/var") for step in (("dir", path), ("host", path))],
        ("dir", "/proc"),
        ("proc", "/proc"),
        ("dir", "/dev"),
        ("file", "/dev/null"),
        ("device", "/dev/null"),
        ("dir", "/dev/pts"),
        ("device", "/dev/pts"),
        ("link", "/dev/fd", "/proc/self/fd"),
        ("link", "/dev/stdin", "/proc/self/fd/0"),
        ("link", "/dev/stdout", "/proc/self/fd/1"),
        ("link", "/dev/stderr", "/proc/self/fd/2"),
        ("dir", "/dev/shm"),
        ("tmpfs", "/dev/shm", "mode=1777"),
    ]


def test_a_path_that_the_host_has_is_mounted_over() -> None:
    plan = operations(Mount("/pods/hosts", "/etc/hosts", is_file=True))
    assert ("host", "/etc") in plan
    assert plan[-2:] == [("file", "/etc/hosts"), ("bind", "/pods/hosts", "/etc/hosts")]


def test_a_path_that_the_host_lacks_turns_its_folder_into_an_artificial_one() -> None:
    plan = operations(Mount("/pods/plan", "/etc/finetune", read_only=True))
    assert ("host", "/etc") not in plan
    assert [step for step in plan if step[-1] == "/etc/hosts"] == [("file", "/etc/hosts"), ("host", "/etc/hosts")]
    assert plan[-3:] == [
        ("dir", "/etc/finetune"),
        ("bind", "/pods/plan", "/etc/finetune"),
        ("readonly", "/etc/finetune"),
    ]


def test_a_path_with_several_missing_parents_replaces_only_the_deepest_folder_there_is() -> None:
    plan = operations(Mount("/v", "/usr/lib/a/b/c"))
    assert ("dir", "/usr/lib") in plan
    assert ("host", "/usr/lib") not in plan
    assert ("host", "/etc") in plan
    assert plan[-1] == ("bind", "/v", "/usr/lib/a/b/c")


def test_links_among_the_parents_are_followed() -> None:
    assert operations(Mount("/v", "/var/run/token"))[-1] == ("bind", "/v", "/run/token")


def test_parents_are_mounted_before_children_whatever_their_order() -> None:
    plan = operations(Mount("/b", "/data/x/y"), Mount("/a", "/data"))
    assert [step for step in plan if step[0] == "bind"] == [("bind", "/a", "/data"), ("bind", "/b", "/data/x/y")]


def test_a_folder_inside_a_volume_does_not_touch_the_hosts_folders() -> None:
    plan = operations(Mount("/a", "/etc"), Mount("/b", "/etc/finetune"))
    assert ("host", "/etc") not in plan
    assert not [step for step in plan if step[0] == "host" and step[1].startswith("/etc/")]


def test_the_later_of_two_mounts_at_one_path_wins() -> None:
    binds = [step for step in operations(Mount("/a", "/tmp"), Mount("/b", "/tmp")) if step[0] == "bind"]
    assert binds == [("bind", "/b", "/tmp")]


def test_a_file_where_the_host_has_a_folder_replaces_it() -> None:
    plan = operations(Mount("/v", "/usr/lib", is_file=True))
    assert ("host", "/usr/lib") not in plan
    assert plan[-2:] == [("file", "/usr/lib"), ("bind", "/v", "/usr/lib")]


def test_own_shared_memory_takes_the_place_of_the_default() -> None:
    plan = operations(Mount("/v", "/dev/shm"))
    assert not [step for step in plan if step[0] == "tmpfs"]
    assert plan[-1] == ("bind", "/v", "/dev/shm")


@pytest.mark.parametrize(
    ("runtime", "added"),
    [
        ("/usr/lib", []),
        ("/tmp/clone", [Mount("/tmp/clone", "/tmp/clone", read_only=True)]),
        ("/tmp", []),
        ("/tmp/missing", []),
    ],
)
def test_what_the_interpreter_needs_stays_visible_below_a_volume(runtime: str, added: list[Mount]) -> None:
    host = Host(["/tmp", "/tmp/clone", "/usr", "/usr/lib"])
    mounts = [Mount("/v", "/tmp")]
    assert keep_visible(mounts, [runtime], host) == mounts + added
