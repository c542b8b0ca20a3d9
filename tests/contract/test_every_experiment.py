"""What every experiment of conf/experiment keeps to, new ones included: its YAML, its cells, its artefact.

An experiment takes 1 to 20 s: it runs every method that it has a row for, most of them for the first time.
"""

import csv
import functools
import io
import logging
import re
import sys
from contextlib import redirect_stderr, redirect_stdout

import hydra
import pytest

from experiments.figures import FIGURES
from experiments.records_table import NAME as RECORDS
from experiments.report import COMPUTED, TABLES, names
from experiments.verify_table import NAME as VERIFY
from lampq.configuration.config_folder import config_folder
from lampq.launch import isolation
from lampq.launch.cells import DONE, NOT_AVAILABLE, read_cells
from lampq.launch.command_line import command_line
from tests.launch.grids import FEW_IMAGES

EXPERIMENTS = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))


def header(name):
    """The comment at the top of an experiment's YAML."""
    lines = (config_folder() / "experiment" / f"{name}.yaml").read_text().splitlines()
    return "\n".join(line for line in lines[: lines.index("defaults:")] if line.startswith("#"))


@pytest.fixture(params=EXPERIMENTS)
def name(request):
    return request.param


def test_every_measured_artefact_of_the_paper_has_an_experiment():
    tables = {f"table{number}" for number in (2, 3, 4, 5, 6, 9, 10)} | {"grid"}
    assert set(EXPERIMENTS) >= tables | {f"figure{number}" for number in (1, 5, 6, 7, 8)}
    assert set(EXPERIMENTS) == set(names()) - {VERIFY, RECORDS}, "tables of any runs"


def test_its_yaml_says_how_it_is_run_on_what_how_long_and_how_many_runs(name):
    text = header(name)
    assert f"python run.py experiment={name}" in text, "the command"
    if name not in COMPUTED:
        assert re.search(r"Last run: .*\d+ runs?", text.replace("\n# ", " ")), "how many runs"
        assert re.search(r"\d+ (s|min|h)\b", text) and re.search(r"CPU|GPU", text), "how long, on what"


def test_it_composes_at_its_own_scale(name):
    """At scale=smoke it is run below."""
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = hydra.compose("config", overrides=[f"experiment={name}"])
    assert cfg.experiment.name == name and cfg.experiment.scale in ("full", "subset")
    assert cfg.baseline == "none" or cfg.sensitivity is not None or name in COMPUTED


QUICK = (*FEW_IMAGES, "base_quantizer=rtn")
"""Of experiments on how bits are chosen: what is chosen for matters little."""

LESS = {
    **dict.fromkeys(("figure5", "figure6", "figure7", "figure8", "table6"), QUICK),
    "grid": (*QUICK, "lampq.gamma=4,20", "lampq.mu=0.5", "lampq.beta=2"),
    "allocators": (*QUICK, "bits=3", "method=adalog,lampq_module_wise,lampq_plus,lampq_measured"),
    "readings": (*QUICK, "reading=as_default,line_5_as_printed"),
    "out_of_domain": (*QUICK, "bits=3", "method=adalog,lampq"),
    "authors_code": (*FEW_IMAGES, "bits=4", "method=repq_vit,erq"),
    "glf_q": (*FEW_IMAGES, "bits=3", "model=deit_tiny", "method=glf_q"),
    "metrics": (*QUICK, "method=single_layers,single_changes,output_fisher"),
    "pareto": (*QUICK, "bits=2.5,3", "method=adalog,output_fisher,lampq"),
    "table10": (*FEW_IMAGES, "model=deit_small", "method=adalog,lampq"),
    "table3": (
        *(*FEW_IMAGES, "bits=4", "model=deit_tiny", "bit_set.bits=[3,4,5]"),
        "method=qdrop,ptq4vit,pd_quant,repq_vit,optq,erq,adalog,lampq",  # table5 has VT-PTQ
    ),
    "rotation": (*FEW_IMAGES, "bits=3", "method=rtn"),
    # Detection, which takes longer an image; tests/tasks/test_detection.py has all its methods.
    "table4": (
        *("method=lampq", "bit_set.bits=[3,4,5]", "max_evaluations=1", "base_quantizer=rtn"),
        *("dataset.sample_images=4", "dataset.validation_images=8"),
    ),
    "table5": (*FEW_IMAGES, "weight_bits=4", "model=deit_tiny", "bit_set.bits=[3,4,5]"),
}
"""Cells that are enough to see that every row works: others differ in bits or model, or other experiments have them."""


def run_experiment(name, folder):
    """Exit status and standard error of its command at scale=smoke, with fewer images."""
    less = LESS.get(name, FEW_IMAGES)
    said, complaints = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(complaints):
        patch.setenv("LAMPQ_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", ["run.py", f"experiment={name}", "scale=smoke", *less])
        sys.argv.append(f"paths.results={folder}/results")
        patch.chdir(folder)
        patch.setattr(isolation.shared, "stop", lambda: None)  # the next one's jobs find everything imported
        status = command_line()
    return status, complaints.getvalue()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Results folder, and what runs an experiment once: over one bank, what they share is computed once."""
    folder = tmp_path_factory.mktemp("smoke")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield folder / "results", functools.cache(lambda name: run_experiment(name, folder))
    isolation.shared.stop()
    root.handlers[:], root.level = handlers, level


@pytest.mark.slow
def test_it_ends_well_with_every_available_cell_done(smoke, name):
    results, finished = smoke
    status, complaints = finished(name)
    assert status == 0, complaints[-2000:]
    states = {cell.state for cell in read_cells(results, name)}
    assert states <= {DONE, NOT_AVAILABLE}


@pytest.mark.slow
def test_its_artefact_is_there_with_its_numbers(smoke, name):
    results, finished = smoke
    finished(name)
    available = [cell for cell in read_cells(results, name) if cell.state == DONE]
    if name in FIGURES:
        files = [results / "figures" / f"{name}.{ending}" for ending in ("png", "pdf", "csv")]
    else:
        stem = "grid_shapes_vit_w3" if name == "grid" else name
        files = [results / "tables" / f"{stem}.{ending}" for ending in ("csv", "md", "tex")]
    assert name in COMPUTED or name not in TABLES or available or "not available" in files[1].read_text()
    for path in files:
        assert path.stat().st_size > 0
    data = next(path for path in files if path.suffix == ".csv")
    with data.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= max(1, len(available) if name in TABLES else 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["figure1", "rotation"])
def test_the_same_again_computes_nothing(smoke, name):
    """One whose figure needs a measurement, one with a table of cells."""
    results, finished = smoke
    finished(name)
    before = {path: path.stat().st_mtime_ns for path in (results / "runs").glob("*/metrics.json")}
    assert run_experiment(name, results.parent)[0] == 0
    after = {path: path.stat().st_mtime_ns for path in (results / "runs").glob("*/metrics.json")}
    assert after == before


@pytest.mark.slow
def test_one_page_shows_all_of_them(smoke):
    results, finished = smoke
    for name in EXPERIMENTS:
        finished(name)
    page = (results / "report.html").read_text()
    for name in EXPERIMENTS:
        assert f"<section id='{name}'>" in page, name
