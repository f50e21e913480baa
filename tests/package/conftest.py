# SPDX-License-Identifier: MIT
"""The Debian packages, built once, and a Debian to install it in."""

import shutil
from pathlib import Path

import pytest
from guest.kernel import GuestUnavailable, kernel
from guest.root import debian
from support.package import build, build_single, clone, lacking, of_python
from support.require import unavailable


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clean clone of the repository, whose path has a blank, to build the package in."""
    if lacking():
        unavailable(lacking())
    return clone(tmp_path_factory.mktemp("package") / "a clone")


@pytest.fixture(scope="session")
def package(tree: Path) -> Path:
    """Return the .deb, beside the tree that it was built in."""
    return build(tree)


@pytest.fixture(scope="session")
def packages(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the packages as old/*.deb and those of a later commit as new/*.deb.

    And single/memnotify.deb, as it was before python3-memnotify.
    """
    tree = clone(tmp_path_factory.mktemp("newer") / "tree")
    directory = tmp_path_factory.mktemp("packages")
    build_single(tmp_path_factory.mktemp("single") / "tree", directory / "single")
    for name, built in (("old", package), ("new", build(tree))):
        (directory / name).mkdir()
        for file in (built, of_python(built)):
            shutil.copy(file, directory / name)
    return directory


@pytest.fixture(scope="session")
def system() -> Path:
    """Return the root directory of a Debian that can be booted, with all dependencies of memnotify."""
    try:
        kernel()
        return debian()
    except GuestUnavailable as missing:
        unavailable(str(missing))
