# SPDX-License-Identifier: MIT
"""Imports point one way, as docs/architecture.md says."""

import ast
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import memnotify

PACKAGE = Path(memnotify.__file__).parent

# Each package or file at the top, and what it may import of the others.
LAYERS: dict[str, set[str]] = {
    "": {"client"},
    "abi": set(),
    "logs": set(),
    "worker": {"kernel"},
    "client": {"abi"},
    "config": {"abi"},
    "kernel": {"abi", "_shim"},
    "engine": {"abi", "kernel", "logs", "worker"},
    "transports": {"_shim", "abi", "engine", "kernel", "logs", "worker"},
    "simulation": {"abi", "engine", "kernel", "transports", "worker"},
    "testing": {"abi", "client", "simulation"},
    "daemon": {"abi", "config", "engine", "kernel", "logs", "transports", "worker"},
    "cli": {"abi", "client", "config", "daemon", "interrupts", "kernel", "logs", "simulation", "transports"},
    "interrupts": set(),
    "__main__": {"cli", "interrupts"},
}
# What pure modules may import of the standard library: nothing that has to do with time or the world.
PURE = {
    "abi.figures": {"collections.abc", "difflib", "os.sysconf", "typing"},
    "abi.thresholds": {"collections.abc", "math", "re", "typing"},
    "config.settings": {"re", "collections.abc", "typing"},
    "engine.observer": {"array", "heapq", "math", "collections.abc", "typing"},
    "engine.table": {
        "errno",
        "math",
        "array",
        "collections.abc",
        "itertools",
        "operator",
        "threading.Lock",
        "typing",
    },
    "engine.schedule": {"collections.abc", "math", "typing"},
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Return the nodes of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imports(path: Path) -> set[str]:
    """Return what a file imports, in functions too: full names, ``module.name`` where a name is taken."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def imported_modules(path: Path) -> set[str]:
    """Return the modules of memnotify that a file imports, or imports names of."""
    names = {name.removeprefix("memnotify.") for name in imports(path) if name.startswith("memnotify.")}
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} - {""}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield each function of a file, methods and inner functions included."""
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def assert_no_circle(edges: Mapping[str, set[str]]) -> None:
    """Raise graphlib.CycleError, which names the circle, if there is one."""
    TopologicalSorter(edges).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_a_function_fits_on_a_screen(module: str) -> None:
    """No function is longer than 45 lines, its docstring included."""
    lines = {
        f"{node.name}:{node.lineno}": 1 + (node.end_lineno or 0) - node.lineno
        for node in functions(MODULES[module])
    }
    assert not {name: count for name, count in lines.items() if count > 45}


@pytest.mark.parametrize("module", MODULES)
def test_a_constructor_has_few_parameters(module: str) -> None:
    """No constructor has more than six parameters beside self: what belongs together is one value."""
    for node in functions(MODULES[module]):
        if node.name == "__init__":
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert len(given) <= 1 + 6, f"line {node.lineno}"


def test_every_module_has_a_layer() -> None:
    """The table has every package, and no other."""
    assert {name.split(".")[0] for name in MODULES} == set(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    """A module imports from the layers below its own, and from its own."""
    layer = module.split(".", maxsplit=1)[0]
    imported = {name.split(".")[0] for name in imported_modules(MODULES[module])}
    assert imported - {layer} <= LAYERS.get(layer, set())


def test_the_layers_have_no_circle() -> None:
    """The table above can be put in an order."""
    assert_no_circle(LAYERS)


def test_the_files_have_no_circle() -> None:
    """No files import each other, within a package or across."""
    assert_no_circle({name: imported_modules(path) - {name} for name, path in MODULES.items()})


def test_the_compiled_module_has_two_importers() -> None:
    """Only the session and syscalls import the compiled module."""
    compiled = "memnotify._shim.lib"
    importers = {
        "kernel.syscalls": ("system_", "SYSTEM_", "counter_"),
        "transports.session": ("shim_", "SHIM_"),
    }
    assert {name for name, path in MODULES.items() if compiled in imports(path)} == set(importers)
    for name, prefixes in importers.items():
        used = set(re.findall(r"\blib\.(\w+)", MODULES[name].read_text()))
        assert used
        assert all(function.startswith(prefixes) for function in used)


@pytest.mark.parametrize("module", PURE)
def test_pure_modules(module: str) -> None:
    """A pure module imports no thread, no clock and no file, and opens none by a built-in function."""
    path = MODULES[module]
    allowed = PURE[module]
    for name in imports(path):
        if not name.startswith("memnotify."):
            assert name in allowed or name.rpartition(".")[0] in allowed, f"{module} imports {name}"
    used = {node.id for node in nodes(path) if isinstance(node, ast.Name)}
    assert not used & {"open", "print", "input", "exec", "eval", "__import__"}


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] in ("client", "abi")])
def test_the_client_needs_the_standard_library_only(module: str) -> None:
    """A program that uses the library loads nothing of the daemon, nor its dependencies."""
    for name in imports(MODULES[module]):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names or name.startswith(("memnotify.client", "memnotify.abi"))


def listed() -> set[str]:
    """Return the files that docs/architecture.md lists, below the package."""
    page = (PACKAGE.parent / "docs/architecture.md").read_text()
    (tree,) = re.findall(r"(?ms)^memnotify/\n(.*?)^```", page)
    (library,) = re.findall(r"(?ms)^### The client library\n(.*?)^#", page)
    rows = "".join(line.split("|")[1] for line in library.splitlines() if line.startswith("|"))
    found = {f"client/{name}" for name in re.findall(r"\w+\.py", rows)}
    directories: list[str] = []
    for line in tree.splitlines():
        del directories[(len(line) - len(line.lstrip())) // 2 - 1 :]
        directories += re.findall(r"^ +(\w+)/", line)
        found.update("/".join((*directories, name)) for name in re.findall(r"\w+\.py", line))
    return found


def test_the_page_lists_the_files() -> None:
    """Each file has its place there; a package's __init__.py need not."""
    files = {str(path.relative_to(PACKAGE)) for path in MODULES.values()}
    assert listed() <= files
    assert {name for name in files - listed() if not name.endswith("__init__.py")} == set()
