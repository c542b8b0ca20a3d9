"""The README's commands do what it says, in the environment that is there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("   #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("python run.py")
]


def run(arguments: list[str], tmp_path: Path, **extra: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "LAMPQ_CACHE": str(tmp_path / "cache"), **extra}
    command = [sys.executable, "run.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command, tmp_path):
    arguments = shlex.split(command)[2:]
    shows_only = any(argument in ("--help", "--cfg") for argument in arguments)
    grid = [re.sub(r"=([^\[\],]+),.*", r"=\1", a) for a in arguments if a not in ("-m", "--multirun")]
    answer = run(grid if shows_only else [*grid, "--cfg", "job"], tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout


@pytest.mark.slow
def test_the_demo_ends_with_its_table_and_its_files(tmp_path):
    """`make demo` is `python run.py`: three rows, better bits than uniform ones, everything on disk."""
    answer = run([f"paths.results={tmp_path}/results"], tmp_path)
    assert answer.returncode == 0, answer.stderr
    for part in ("full precision", "adalog, uniform", "adalog, lampq", "simulated", "qkv", "fc2"):
        assert part in answer.stdout
    folders = list((tmp_path / "results" / "runs").glob("*/metrics.json"))
    assert len(folders) == 2
    names = ("config.yaml", "environment.json", "plan.json", "log.txt", "bit_allocation.png")
    assert all((folder.parent / name).is_file() for folder in folders for name in names)
    again = run([f"paths.results={tmp_path}/results"], tmp_path)
    assert again.returncode == 0
    assert again.stdout.count("finished before") == 2


def test_every_option_of_every_group_is_in_the_readme():
    for group in (
        "model",
        "dataset",
        "base_quantizer",
        "allocator",
        "bit_set",
        "logger",
        "method",
        "hardware",
        "scale",
        "effort",
        "experiment",
    ):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert f"`{path.stem}`" in README, f"{group}={path.stem} is not in the README"


def test_files_named_in_the_readme_exist():
    for path in re.findall(r"`((?:lampq|conf|experiments)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path
