# SPDX-License-Identifier: MIT
"""Imports point one way, and the pure rooms stay pure: what docs/architecture.md says, held to."""

import ast
import re
import sys
from pathlib import Path

import pytest

import memnotify

PACKAGE = Path(memnotify.__file__).parent

# Each room, and the rooms it may know. Everything that is not named here may know nothing.
LAYERS: dict[str, set[str]] = {
    "figures": set(),
    "further": {"figures"},
    "config": {"further"},
    "config_file": {"config"},
    "logs": set(),
    "pressure": set(),
    "service": set(),
    "_shim": set(),
    "system": {"_shim"},
    "kick": {"system"},
    "privileges": {"system"},
    "thresholds": {"figures"},
    "observers": {"figures", "thresholds"},
    "pace": {"figures"},
    "sampler": {"figures", "logs", "observers", "pace", "system", "thresholds"},
    "device": {"logs", "observers", "sampler", "thresholds"},
    "reload": {"config", "device", "figures", "kick", "sampler"},
    "session": {"_shim", "logs"},
    "sockets": {"device", "logs", "thresholds"},
    "transports": {"session"},
    "daemon": {
        "config",
        "device",
        "figures",
        "further",
        "kick",
        "observers",
        "pace",
        "pressure",
        "privileges",
        "reload",
        "sampler",
        "service",
        "session",
        "sockets",
        "system",
        "transports",
    },
    "cli": {
        "client",
        "config",
        "config_file",
        "daemon",
        "figures",
        "further",
        "logs",
        "privileges",
        "transports",
    },
    "client": set(),
    "__main__": {"cli"},
    "": set(),
}
# What a pure room may import of the standard library: nothing that has to do with time or the world.
PURE = {
    "config": {"re", "collections.abc", "typing"},
    "thresholds": {"collections.abc", "re"},
    "observers": {"heapq", "math", "array", "collections.abc", "threading.Lock", "typing"},
    "pace": {"collections.abc", "math"},
    # difflib for what is misspelled
    "further": {"collections.abc", "difflib"},
    # The one that reads: files by descriptor, and no time
    "figures": {"collections.abc", "os", "re", "struct", "threading.Lock", "typing"},
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(path: Path) -> set[str]:
    """Return what a file imports, in functions too: full names, ``module.name`` where a name is taken."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def known_rooms(path: Path) -> set[str]:
    """Return the rooms that a file imports from; ``__init__``'s own names are of no room."""
    names = {name.split(".")[1] for name in imports(path) if name.startswith("memnotify.")}
    return names - {"__version__"}


def test_every_module_has_a_room() -> None:
    """A new module is given its place here, and a room that is gone is not kept."""
    assert {name.split(".")[0] for name in MODULES} | {"_shim"} == set(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    """A module knows the rooms below it, and its own."""
    room = module.split(".", maxsplit=1)[0]
    assert known_rooms(MODULES[module]) - {room} <= LAYERS[room]


def test_the_layers_have_no_circle() -> None:
    """The table above can be put in an order."""
    left = dict(LAYERS)
    while left:
        free = [room for room, known in left.items() if not known & set(left)]
        assert free, f"a circle among {sorted(left)}"
        for room in free:
            del left[room]


def test_who_imports_what_is_compiled() -> None:
    """What is compiled has two doors: one to libfuse3, one to the system calls that Python lacks."""
    compiled = "memnotify._shim.lib"
    assert [name for name, path in MODULES.items() if compiled in imports(path)] == ["session", "system"]
    for name, prefixes in (("session", ("shim_", "SHIM_")), ("system", ("system_", "counter_"))):
        used = set(re.findall(r"\blib\.(\w+)", MODULES[name].read_text()))
        assert used
        assert all(function.startswith(prefixes) for function in used)


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms(room: str) -> None:
    """A pure room imports no thread, no clock and no file, and opens none by a built-in function."""
    path = MODULES[room]
    allowed = PURE[room]
    for name in imports(path):
        if not name.startswith("memnotify."):
            assert name in allowed or name.rpartition(".")[0] in allowed, f"{room} imports {name}"
    used = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    assert not used & {"open", "print", "input", "exec", "eval", "__import__"}


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] == "client"])
def test_the_client_needs_the_standard_library_only(module: str) -> None:
    """A program that uses the device takes on nothing of the daemon, nor its dependencies."""
    for name in imports(MODULES[module]):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names or name.startswith("memnotify.client")
