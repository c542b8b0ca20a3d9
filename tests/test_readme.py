"""What README and the pages under docs/ say: their commands and their Python run, what they name is there."""

import functools
import importlib
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import hydra
import pytest
from torch.utils.data import DataLoader, TensorDataset

import lampq
from experiments.__main__ import main
from experiments.configuration import configuration_page
from lampq.configuration.config_folder import config_folder
from lampq.configuration.settings import check
from lampq.plan.bit_plan import BitPlan
from tests.experiments.results_folder import ResultsFolder, scored_plan
from tests.launch.grids import FEW_IMAGES
from tests.report.plans import example_plan
from tests.small_models import images, vision_transformer, vit_adapter

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}


def blocks(page: str, language: str) -> list[str]:
    """Code of a language on a page, as one would copy it."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", PAGES[page], re.S | re.M)
    return [re.sub(rf"^{indent}", "", code, flags=re.M) for indent, code in found]


COMMANDS = sorted(
    {
        " ".join(map(shlex.quote, words))
        for page in PAGES
        for code in blocks(page, "bash")
        for line in code.splitlines()
        if (words := shlex.split(re.sub(r'^eval "\$\((.*?)\)"', r"\1", line), comments=True))
    }
)
RUNS = [command for command in COMMANDS if command.startswith("python run.py")]
AROUND_RUNS = [
    command
    for command in COMMANDS
    if command.startswith("python -m experiments ")
    and command.split()[3] not in ("save", "export", "verify", "evaluate")
]
"""Those of models are in tests/experiments/test_saved.py, which has one."""
INLINE = sorted(
    {
        (page, code)
        for page, text in PAGES.items()
        if page != "docs/configuration.md"
        for code in re.findall(r"`([^`\n]+)`", text)
    }
)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What stands for the names of a user's own files and folders in a command."""
    folder = tmp_path_factory.mktemp("given")
    for name in ("train", "val", "annotations", "train2017", "val2017"):
        (folder / name).mkdir()
    for split in ("train2017", "val2017"):
        (folder / "annotations" / f"instances_{split}.json").write_text("{}")
    example_plan(1).write(folder / "plan.json")
    (folder / "weights.safetensors").write_bytes(b"")
    return {
        r"/data/\w+": folder,
        r"(results/runs/FINGERPRINT|PLAN)/plan\.json": folder / "plan.json",
        r"checkpoint=[\w.]+": f"checkpoint={folder}/weights.safetensors",
    }


@pytest.mark.parametrize("command", [command for command in RUNS if "--" not in command])
def test_a_run_is_composed_and_checked(command, given):
    """Of a grid, the job with the first of all values."""
    if "mask_rcnn" in command:
        pytest.importorskip("mmdet")
    for written, path in given.items():
        command = re.sub(written, str(path), command)
    overrides = [re.sub(r"=([^\[\],]+),.*", r"=\1", a) for a in shlex.split(command)[2:] if a != "-m"]
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        check(hydra.compose("config", overrides=overrides))


@pytest.mark.parametrize("command", [command for command in RUNS if "--cfg" in command or "--shell" in command])
def test_what_only_shows_something_shows_it(command):
    """The text of --help: tests/launch/test_command_line.py."""
    words = [sys.executable, *shlex.split(command)[1:]]
    assert subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """A results folder with two cells of table 3."""
    folder = ResultsFolder(tmp_path_factory.mktemp("plans") / "results")
    plan = scored_plan(blocks=4)
    return folder.path, [
        folder.measured("table3", f"model=deit_tiny bits=3 method={method}", plan=plan)
        for method in ("adalog", "lampq")
    ]


@pytest.mark.parametrize("command", AROUND_RUNS)
def test_a_command_around_runs_does_what_it_says(command, plans, monkeypatch, capsys):
    results, runs = plans
    monkeypatch.chdir(results.parent)
    arguments = iter(runs)
    words = shlex.split(command.partition(" '>'")[0])[3:]
    words = [next(arguments).name if word == "PLAN" else word for word in words]
    assert main(words) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


def test_other_commands_are_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in sorted(set(COMMANDS) - set(RUNS) - set(AROUND_RUNS)):
        if command.startswith("python -m experiments"):
            continue
        program, *arguments = shlex.split(command)
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M), command
        elif program.endswith("pip"):
            (extra,) = re.findall(r"\[(\w+)\]", command)
            assert extra in extras and arguments[0] == "install", command
        else:
            assert program in ("wandb", "squeue"), f"{command}: not run by any test"


@pytest.mark.slow
def test_the_demo_ends_with_its_table_and_its_files(tmp_path, run):
    """`make demo` is `python run.py`: three rows and everything on disk; here with few images and a short search."""
    shortened = ("effort=smoke", *FEW_IMAGES, f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache")
    command = [sys.executable, "run.py", *shortened]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for part in ("full precision", "adalog, uniform", "adalog, lampq", "simulated", "qkv", "fc2"):
        assert part in out
    folders = list((tmp_path / "results" / "runs").glob("*/metrics.json"))
    assert len(folders) == 2
    names = ("config.yaml", "environment.json", "plan.json", "log.txt", "bit_allocation.png")
    assert all((folder.parent / name).is_file() for folder in folders for name in names)
    status, again, _ = run(*shortened, results_here=False)
    assert status == 0 and again.count("finished before") == 2


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMPQ_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # it saves a model
    shortened = functools.partial(lampq.quantize, overrides=["effort=smoke"])
    monkeypatch.setattr(lampq, "quantize", shortened)
    network, pictures = vision_transformer(1), images(vit_adapter(1), 24)
    classes = network(pictures).argmax(1)
    loader = DataLoader(TensorDataset(pictures, classes), batch_size=8)
    space = {"network": network, "images": pictures[:4], "classes": classes[:4], "loader": loader}
    (code,) = blocks("README.md", "python")
    exec(code, space)
    assert isinstance(space["q"].plan, BitPlan)


@pytest.fixture
def worked_method(tmp_path, monkeypatch):
    """Method and model of docs/adding.md, as if their files were in their folders: (class, folder of the YAML)."""
    (code,), (written, *_, model) = blocks("docs/adding.md", "python"), blocks("docs/adding.md", "yaml")
    target = re.search(r"^_target_: (.*)\.(\w+)$", written, re.M)
    module = ModuleType(target[1])
    monkeypatch.setitem(sys.modules, target[1], module)
    exec(code, vars(module))
    method = vars(module)[target[2]]
    for name, text in ((f"base_quantizer/{method.name}", written), ("model/mine", model)):
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return method, tmp_path / "conf"


def test_the_worked_method_is_composed_and_refuses_a_wrong_value(worked_method, run, pipeline):
    method, folder = worked_method
    chosen = ("--config-dir", str(folder), f"base_quantizer={method.name}", "model=mine")
    assert run(*chosen)[0] == 0
    (settings,) = pipeline.settings
    assert isinstance(settings.base_quantizer, method) and settings.model.name.startswith("deit3")
    status, _, (line,) = run(*chosen, "base_quantizer.quantile=2")
    assert status == 1 and line.startswith("error: base_quantizer.quantile=2: must be a number")


def test_the_worked_method_keeps_the_contract(worked_method, monkeypatch):
    from tests.contract import test_every_base_quantizer as contract

    method, _ = worked_method
    monkeypatch.setattr(contract, "quantizer", lambda name, *effort: method())
    tests = [test for name, test in vars(contract).items() if name.startswith("test_")]
    of_a_name = [t for t in tests if list(inspect.signature(t).parameters) in (["name"], ["any_name"])]
    assert len(of_a_name) > 5
    for test in of_a_name:
        test(method.name)


# What is named is there


def test_measured_figures_are_those_of_the_published_tables():
    measured = PAGES["README.md"].split("## What was measured")[1].split("\n## ")[0]
    tables = "\n".join(path.read_text() for path in ROOT.glob("results/published/tables/*.md")).replace("−", "-")
    figures = re.findall(r"-?\d+\.\d\d ± \d\.\d\d", measured)
    assert len(figures) > 20
    assert [figure for figure in figures if figure not in tables] == []


def test_links_lead_somewhere():
    for page, text in PAGES.items():
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, section = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), f"{page}: {link}"
            if section:
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
                assert section in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], link


def test_files_that_are_named_exist():
    """Of a name in capitals that stands for another one, the folder."""
    for page, code in INLINE:
        if re.fullmatch(r"(lampq|conf|experiments|tests|docs)(/[\w.]+)*/?", code) and "/" in code:
            path = re.sub(r"/[A-Z]+\.\w+$", "", code)
            assert (ROOT / path).exists(), f"{page}: {code}"


def test_python_that_is_named_exists():
    keys = configuration_page()
    for page, code in INLINE:
        for name in re.findall(r"(?<![/\w])(?:lampq|experiments)(?:\.\w+)+", code):
            parent, _, last = name.rpartition(".")
            if f"- `{name}` = " not in keys and not is_module(name):
                assert hasattr(importlib.import_module(parent), last), f"{page}: {code}"


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


def test_keys_and_options_that_are_named_exist():
    keys, groups = configuration_page(), {path.parent.name for path in config_folder().glob("*/*.yaml")}
    for page, code in INLINE:
        key, is_override, value = code.partition("=")
        if key in groups and re.fullmatch(r"[a-z]\w*", value):
            assert (config_folder() / key / f"{value}.yaml").exists(), f"{page}: {code}"
        elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", key) and key not in groups:
            first, dot, last = key.partition(".")
            if is_override or (dot and first in groups - {"lampq"} and last != "safetensors"):  # a file's name
                assert f"- `{key}` = " in keys, f"{page}: {code}"


def test_modules_that_are_run_know_their_commands(capsys):
    for page, code in INLINE:
        if (words := code.split())[:2] == ["python", "-m"]:
            if words[2] == "experiments":
                with pytest.raises(SystemExit) as ended:
                    main([*words[3:4], "--help"])
                assert ended.value.code == 0, f"{page}: {code}"
            else:
                assert importlib.util.find_spec(words[2]) is not None, f"{page}: {code}"
