"""Experiments copied into the repository: cells, runs and tables, nothing of a machine."""

import json

import pytest

from experiments.__main__ import main
from experiments.frame import frame
from experiments.publish import publish, without_machine
from lampq.errors import LampQError
from lampq.launch.cells import FAILED, NOT_AVAILABLE, read_cells
from lampq.runs.finished_run import read_run, seal
from tests.experiments.results_folder import PIXEL, components

ADALOG = "model=deit_tiny bits=3 method=adalog"
LAMPQ = "model=deit_tiny bits=3 method=lampq"


def texts(folder):
    """Everything that can be read in a folder."""
    return {p: p.read_text() for p in folder.rglob("*") if p.is_file() and p.suffix not in (".png", ".pdf", ".jpg")}


def states(results, name="table3"):
    return dict(frame(results.path / "published", [name])[["method", "state"]].to_numpy())


def test_cells_and_runs_are_copied_and_tables_rebuilt_there(results):
    run = results.measured("table3", ADALOG)
    results.measured("table6", ADALOG)
    target = results.path / "published"
    written = publish(["table3"], results.path)
    assert states(results) == {"adalog": "done"} and states(results, "table6") == {}
    (copied,) = (target / "runs").iterdir()
    assert copied.name == run.name
    for file in ("metrics.json", "identity.json", "images.json", "outcomes.csv", "plan.json"):
        assert (copied / file).read_text() == (run / file).read_text(), file
    assert not (copied / "bit_allocation.png").exists(), "the page shows the bits, from the plan"
    assert {p.name for p in written} >= {"table3.csv", "table3.md", "table3.tex", "report.html"}
    assert all(p.is_file() and p.is_relative_to(target) for p in written)
    assert "44.00 ± 4.99" in (target / "tables" / "table3.md").read_text()


def test_a_figures_numbers_are_copied_and_the_figure_drawn_there(results):
    results.sensitivity("figure1", "model=deit_tiny", components({"layers": ("qkv",), "blocks": ("block",)}))
    written = publish(["figure1"], results.path)
    assert results.path / "published" / "figures" / "figure1.png" in written


@pytest.mark.parametrize(("dataset", "handed_on"), [("shapes_coco", True), ("coco", False)])
def test_images_of_a_data_set_are_not_handed_on(results, dataset, handed_on):
    run = results.measured("table3", ADALOG, dataset=dataset)
    (run / "detections.png").write_bytes(PIXEL)
    publish(["table3"], results.path)
    assert (results.path / "published" / "runs" / run.name / "detections.png").is_file() is handed_on


def test_a_contact_sheet_of_made_images_is_handed_on_once(results):
    made = {"calibration": {"images": 32, "source": "psaq", "made": ["0123abcd"]}}
    for asked in (ADALOG, LAMPQ):
        run = results.measured("table3", asked, image_sets=made)
        (run / "synthetic_images").mkdir()
        (run / "synthetic_images" / "batch0.png").write_bytes(PIXEL)
    publish(["table3"], results.path)
    assert [p.name for p in (results.path / "published" / "synthetic_images").iterdir()] == ["0123abcd.jpg"]


def test_nothing_of_the_machine_is_left(results, monkeypatch):
    monkeypatch.setenv("LAMPQ_DATA", "/data/x")
    monkeypatch.chdir(results.path.parent)  # as in a checkout, where results/ is
    paths = "dataset.root=/data/x/imagenet model.checkpoint=/home/someone/weights/deit.pth"
    command = f"run.py experiment=table3 {paths}"
    run = results.run(where={"command": command})
    (run / "config.yaml").write_text("root: /data/x/imagenet\ncheckpoint: /home/someone/weights/deit.pth\n")
    seal(run)
    (run / "log.txt").write_text("read /home/someone/weights/deit.pth")
    results.cell("table3", f"{ADALOG} {paths}", run=run.name, command=command, traceback="/home/someone/x.py")
    publish(["table3"], results.path)
    found = texts(results.path / "published")
    assert len(found) > 12
    for path, text in found.items():
        for secret in ("/home/someone", "/data/x", "laboratory", "4711", str(results.path.parent)):
            assert secret not in text, f"{secret} in {path}"
    (cell,) = read_cells(results.path / "published", "table3")
    assert (cell.host, cell.traceback) == (None, None)
    assert (
        cell.overrides["dataset.root"] == "${LAMPQ_DATA}/imagenet" and cell.overrides["model.checkpoint"] == "deit.pth"
    )
    assert cell.command.startswith("run.py experiment=table3 dataset.root=${LAMPQ_DATA}/imagenet")
    assert "log.txt" not in {path.name for path in found}


def test_the_original_is_left_as_it_is(results):
    results.measured("table3", ADALOG)
    before = texts(results.path)
    publish(["table3"], results.path)
    assert {path: text for path, text in texts(results.path).items() if path in before} == before


def test_what_does_not_exist_is_published_as_such_but_no_failure(results):
    results.cell("table3", ADALOG, NOT_AVAILABLE, reason="method=adalog does not exist")
    results.cell("table3", LAMPQ, FAILED, reason="no card")
    publish(["table3"], results.path)
    assert states(results) == {"adalog": "not available"}


def test_what_was_published_before_stays_and_its_cells_are_replaced(results):
    results.measured("table3", ADALOG)
    results.measured("table6", ADALOG)
    publish(["table3", "table6"], results.path)
    again = results.measured("table3", ADALOG, outcomes=(60, 20, 0, 20))
    publish(["table3"], results.path)
    (cell,) = read_cells(results.path / "published", "table3")
    assert cell.fingerprints == [again.name]
    assert states(results, "table6") == {"adalog": "done"}
    tables = {path.name for path in (results.path / "published" / "tables").glob("*.md")}
    assert tables == {"table2.md", "table3.md", "table6.md", "table9.md"}
    assert "60.00 ±" in (results.path / "published" / "tables" / "table3.md").read_text()


def test_an_experiment_without_cells_is_refused_in_one_line(results, capsys):
    results.measured("table6", ADALOG)
    assert main(["publish", "table3", "--results", str(results.path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: table3: no cells under") and err.endswith("run python run.py experiment=table3\n")
    assert err.count("\n") == 1 and not (results.path / "published").exists()


@pytest.mark.parametrize(("name", "hint"), [("tabel3", "did you mean table3?"), ("zzz", "there are table2,")])
def test_an_unknown_name_is_one_line(results, capsys, name, hint):
    results.path.mkdir()
    assert main(["publish", name, "--results", str(results.path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {name}: no such experiment; ") and hint in err and err.count("\n") == 1
    assert list(results.path.iterdir()) == []


def test_computed_tables_can_be_published_without_cells(results, capsys):
    results.path.mkdir()
    assert main(["publish", "table2", "--results", str(results.path)]) == 0
    assert str(results.path / "published" / "tables" / "table2.md") in capsys.readouterr().out.splitlines()


def test_published_cells_are_read_like_any_other(results, capsys):
    results.measured("table3", ADALOG)
    assert main(["publish", "table3", "--results", str(results.path)]) == 0
    published = str(results.path / "published")
    assert main(["status", "--results", published]) == 0 and main(["report", "--results", published]) == 0
    (cell,) = (results.path / "published" / "experiments" / "table3").iterdir()
    assert json.loads(cell.read_text())["state"] == "done"


def test_no_path_of_a_machine_is_left():
    assert without_machine("at /usr/lib/somewhere/file.py and a/b, 3/4") == "at file.py and a/b, 3/4"


def test_of_a_grid_the_table_the_preset_and_the_winners_run_are_published(results):
    axes = "lampq.mu=0.5 lampq.beta=2 bit_set=b2345 model=deit_tiny bits=3"
    runs = [
        results.measured("grid", f"{axes} lampq.gamma={gamma}", outcomes=None, sample_top1=top1, seconds_plans=1.0)
        for gamma, top1 in ((2, 40.0), (4, 50.0), (8, 45.0))
    ]
    publish(["grid"], results.path)
    target = results.path / "published"
    assert [path.name for path in (target / "runs").iterdir()] == [runs[1].name]
    assert (target / "presets" / "lampq" / "deit_tiny_w3.yaml").is_file()
    table = (target / "tables" / "grid_deit_tiny_w3.csv").read_text()
    assert all(run.name in table for run in runs) and "/home/" not in table


def test_nothing_damaged_is_published_and_no_link_is_followed(results, tmp_path, capsys):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    good, linked, picture = (results.measured("table3", f"{ADALOG} seed={seed}") for seed in range(3))
    (linked / "plan.json").unlink()
    (linked / "plan.json").symlink_to(secret)
    (picture / "sensitivity.png").symlink_to(secret)
    (good / "holiday.png").write_bytes(PIXEL)
    assert main(["publish", "table3", "--results", str(results.path)]) == 1
    target = results.path / "published"
    assert {path.name for path in (target / "runs").iterdir()} == {good.name, picture.name}
    assert not any(b"secret" in path.read_bytes() for path in target.rglob("*") if path.is_file())
    assert not (target / "runs" / good.name / "holiday.png").exists()
    err = capsys.readouterr().err
    assert f"{linked}: plan.json is a link" in err and f"{picture}: sensitivity.png is a link" in err


def test_a_published_copy_is_sealed_anew(results, monkeypatch):
    run = results.measured("table3", ADALOG)
    (run / "config.yaml").write_text("root: /home/someone/data\n")
    seal(run)
    publish(["table3"], results.path)
    copy = results.path / "published" / "runs" / run.name
    assert read_run(copy).metrics == read_run(run).metrics and "someone" not in (copy / "config.yaml").read_text()


def test_nothing_is_written_through_a_link_in_the_target(results, tmp_path):
    run, outside = results.measured("table3", ADALOG), tmp_path / "outside"
    outside.mkdir()
    target = results.path / "published" / "runs"
    target.mkdir(parents=True)
    (target / run.name).symlink_to(outside)
    with pytest.raises(LampQError, match="is a link, which publish does not follow"):
        publish(["table3"], results.path)
    assert list(outside.iterdir()) == []
