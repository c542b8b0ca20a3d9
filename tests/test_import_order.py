"""The house: which room may import which, and no two files that need each other."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lampq

PACKAGE = Path(lampq.__file__).parent

ROOMS = [
    *("__init__", "quantization", "launch", "pipeline", "report", "runs"),
    *("artefact", "allocation", "sensitivity", "workbench", "tasks", "datasets"),
    *("bank", "base_quantizers", "reconstruction", "reparameterization", "calibration", "transform", "models"),
    *("configuration", "quantized_modules", "number_formats"),
    *("plan", "storage", "workers", "progress", "parts", "limits", "errors"),
]
"""From the top down: files of a room import from that room and from those below it."""


def imported(path: Path) -> set[str]:
    """Names of modules, and of what is taken from them, that a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def files(names: set[str]) -> set[str]:
    """Which of them are files of the package."""
    paths = {PACKAGE.parent.joinpath(*name.split(".")) for name in names if name.startswith("lampq.")}
    paths = {path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in paths}
    return {path.relative_to(PACKAGE).as_posix() for path in paths if path.is_file()}


@pytest.fixture(scope="module")
def names() -> dict[str, set[str]]:
    """What each file of the package imports, by the file's path in it."""
    return {path.relative_to(PACKAGE).as_posix(): imported(path) for path in PACKAGE.rglob("*.py")}


@pytest.fixture(scope="module")
def imports(names) -> dict[str, set[str]]:
    """Of these the package's own files."""
    return {name: files(of) for name, of in names.items()}


def room(name: str) -> str:
    return name.partition("/")[0].removesuffix(".py")


def test_every_room_has_its_place(names):
    assert {room(name) for name in names} == set(ROOMS) and len(set(ROOMS)) == len(ROOMS)


def test_imports_go_down_or_stay_in_their_room(imports):
    floor = {name: place for place, name in enumerate(ROOMS)}
    up = [(name, file) for name, files in imports.items() for file in files if floor[room(file)] < floor[room(name)]]
    assert not up


def test_no_files_need_each_other(imports):
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_the_package_does_without_the_experiments(names):
    """`config_folder.experiments_module` alone finds them, by name, when a command asks for them."""
    assert not [name for name, of in names.items() if any(each.startswith("experiments") for each in of)]
