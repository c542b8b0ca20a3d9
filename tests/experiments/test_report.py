"""Tables, figures and the page, put together from what is there."""

import json
import re
from html.parser import HTMLParser

import pytest

from experiments import figures
from experiments.__main__ import main
from experiments.frame import frame
from experiments.report import build, names, report
from lampq.errors import LampQError
from lampq.launch.cells import FAILED, NOT_AVAILABLE
from lampq.report.bit_allocation import bits_html
from tests.experiments.results_folder import components, scored_plan, searched_plan
from tests.experiments.rows_of import rows_of

ADALOG = "model=deit_tiny bits=3 method=adalog"


class Page(HTMLParser):
    """What a page consists of: tags with their attributes, and the text of each section."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(results):
    return Page((results.path / "report.html").read_text())


def written(results, only=None):
    return sorted(str(path.relative_to(results.path)) for path in report(results.path, only))


def files(results):
    return sorted(str(p.relative_to(results.path)) for p in results.path.rglob("*.*") if p.parent.name in FOLDERS)


FOLDERS = ("tables", "figures", "lampq")
COMPUTED = [f"tables/table{number}.{ending}" for number in (2, 9) for ending in ("csv", "md", "tex")]


def test_computed_tables_are_there_without_any_run(results):
    results.path.mkdir()
    assert written(results) == ["report.html", *COMPUTED]
    assert files(results) == COMPUTED
    assert "ρ_B" in page_of(results).text


def test_tables_figures_and_the_page_are_written(results):
    results.measured("table3", ADALOG)
    results.sensitivity("figure1", "model=deit_tiny", components({"layers": ("qkv",), "blocks": ("block",)}))
    asked = "model=deit_tiny bits=3 lampq.mu=1 bit_set=b2345 lampq.gamma=4 lampq.beta=2"
    results.measured("grid", asked, outcomes=None)
    expected = [
        *(f"figures/figure1.{ending}" for ending in ("csv", "pdf", "png")),
        "presets/lampq/deit_tiny_w3.yaml",
        *(f"records{kind}.{ending}" for kind in ("", "_in_vain") for ending in ("csv", "md", "tex")),
        "report.html",
        *(f"tables/grid_deit_tiny_w3.{ending}" for ending in ("csv", "md", "tex")),
        *(f"tables/table{number}.{ending}" for number in (2, 3, 9) for ending in ("csv", "md", "tex")),
    ]
    assert written(results) == expected
    assert all((results.path / name).stat().st_size for name in expected)
    sections = [a["id"] for tag, a in page_of(results).tags if tag == "section"]
    assert sections == ["table2", "table9", "table3", "grid", "records", "figure1"]


def test_only_what_is_asked_for_is_named_but_the_page_has_everything(results):
    results.measured("table3", ADALOG)
    results.measured("table10", ADALOG, outcomes=None)
    assert written(results, ["table3"]) == ["report.html", *(f"tables/table3.{e}" for e in ("csv", "md", "tex"))]
    sections = [a["id"] for tag, a in page_of(results).tags if tag == "section"]
    assert sections == ["table2", "table9", "table3", "table10", "records"]


def test_a_figure_that_was_not_asked_for_is_drawn_again_only_where_its_numbers_have_changed(results, monkeypatch):
    def measured(images, base):
        rows = components({"layers": ("qkv",)}, base=base)
        results.sensitivity("figure1", f"model=deit_tiny sample={images}", rows, sample_images=images)

    saved, save = [], figures.save
    monkeypatch.setattr(
        figures, "save", lambda figure, path, numbers: saved.append(path) or save(figure, path, numbers)
    )
    measured(64, 70.0)
    path = results.path / "figures" / "figure1.png"
    for only, drawn in (["table2"], 1), (["table2"], 1), (["figure1"], 2), (None, 3):
        report(results.path, only)
        assert saved == [path] * drawn, only
    measured(1024, 72.0)
    report(results.path, ["table2"])
    assert saved == [path] * 4
    path.with_suffix(".pdf").unlink()
    report(results.path, ["table2"])
    assert saved == [path] * 5
    path.write_bytes(b"damaged")
    report(results.path, ["table2"], told := [])
    assert len(told) == 1 and "is no picture" in told[0] and "report figure1` draws it again" in told[0]
    assert "id='figure1'" in (results.path / "report.html").read_text()


def test_the_page_needs_no_other_file_and_no_network(results):
    run = results.measured("table3", ADALOG)
    results.sensitivity("figure1", "model=deit_tiny", components({"layers": ("qkv",)}))
    report(results.path)
    html = (results.path / "report.html").read_text()
    assert "http:" not in html and "https:" not in html and "url(" not in html and "@import" not in html
    page = page_of(results)
    assert page.open == [], "every tag is closed"
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    sources = [a["src"] for _, a in page.tags if "src" in a]
    assert len(sources) == 1 and re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", sources[0]), "the figure"
    assert bits_html(searched_plan(), json.loads((run / "metrics.json").read_text())) in html, "the plan of the run"
    links = [a["href"] for _, a in page.tags if "href" in a]
    assert links and set(links) <= {f"#{a['id']}" for _, a in page.tags if "id" in a}
    assert run.name in page.text


def test_a_plan_can_be_applied_again_by_a_command_that_has_what_it_needs(results, monkeypatch):
    run = results.measured("table6", "model=deit_tiny method=lampq_without_update bits=3 lampq.gamma=2 dataset.root=/d")
    monkeypatch.chdir(results.path.parent)
    report(results.path)
    command = (
        "python run.py bits=3 dataset.root=/d model=deit_tiny base_quantizer=adalog allocator=from_plan "
        f"allocator.plan=results/runs/{run.name}/plan.json"
    )
    assert command in page_of(results).text
    assert (results.path.parent / command.rpartition("=")[2]).is_file()


def test_text_is_escaped(results):
    evil = "<script>alert('&')</script>"
    results.measured("table3", f"{ADALOG} note={evil}", where={"processor": evil})
    results.cell("table3", f"{ADALOG} other=1", NOT_AVAILABLE, reason=evil)
    results.cell("table6", "model=deit_tiny bits=3 method=lampq", FAILED, command=f"run.py {evil}")
    report(results.path)
    page = page_of(results)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(evil) >= 4, "and is still there to read"


def test_the_command_that_fills_gaps_is_there(results):
    results.cell("table3", ADALOG, FAILED, command="run.py experiment=table3 scale=subset model=deit_tiny")
    report(results.path)
    text = page_of(results).text
    assert "python run.py experiment=table3 scale=subset model=deit_tiny" in text
    assert "python run.py experiment=table2" in text


def test_what_cannot_be_read_is_passed_over(results):
    results.measured("table3", ADALOG)
    unfinished = results.measured("table3", ADALOG.replace("adalog", "lampq"))
    for file in ("digests.json", "metrics.json"):
        (unfinished / file).unlink()
    folder = results.path / "experiments" / "table3"
    for name, text in (
        ("torn", '{"experiment": "tab'),
        ("other", "[1, 2]"),
        ("newer", '{"unknown": 1}'),
        ("empty", ""),
    ):
        (folder / f"{name}.json").write_text(text)
    (folder / "bytes.json").write_bytes(b"\xff\xfe")
    rows = rows_of(build("table3", results.path, frame(results.path, ["table3"])).tables[0])
    top1 = {method: cells["top-1"] for (heading, method), cells in rows.items() if heading.endswith("W3A3")}
    assert top1["AdaLog"].startswith("44.00") and top1["LampQ"] == "missing"
    assert report(results.path)[-1].is_file()


def test_an_experiment_of_the_users_own_is_no_obstacle(results):
    results.measured("my_grid", ADALOG)
    assert written(results) == ["report.html", *COMPUTED]


@pytest.mark.parametrize(("name", "hint"), [("tabel3", "did you mean table3?"), ("zzz", "there are table2, table9")])
def test_an_unknown_name_is_one_line(results, capsys, name, hint):
    results.path.mkdir()
    with pytest.raises(LampQError, match=re.escape(hint)):
        build(name, results.path, frame(results.path, []))
    assert main(["report", name, "--results", str(results.path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {name}: no such experiment; ") and hint in err and err.count("\n") == 1
    assert list(results.path.iterdir()) == []


def test_a_results_folder_that_is_not_there_is_one_line(results, capsys):
    assert main(["report", "--results", str(results.path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: --results") and "no such folder" in err and err.count("\n") == 1


def test_the_command_prints_what_it_wrote(results, capsys):
    results.measured("table3", ADALOG)
    assert main(["report", "table3", "--results", str(results.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = [*(f"tables/table3.{e}" for e in ("csv", "md", "tex")), "report.html", "runs.csv"]
    assert lines == [str(results.path / file) for file in files]


def test_a_report_changes_nothing_but_its_own_files_and_repeats(results):
    results.measured("table3", ADALOG)
    before = {p: p.read_bytes() for p in results.path.rglob("*") if p.is_file()}
    report(results.path)
    first = {p: p.read_bytes() for p in results.path.rglob("*") if p.is_file()}
    assert {p: first[p] for p in before} == before
    report(results.path)
    assert {p: p.read_bytes() for p in results.path.rglob("*") if p.is_file()} == first


def test_an_experiment_may_have_tables_and_a_figure(results):
    run = results.measured("metrics", "model=deit_tiny bits=3 method=lampq", plan=scored_plan())
    tables = [
        f"tables/metrics{kind}.{ending}" for kind in ("", "_changes", "_pairs") for ending in ("csv", "md", "tex")
    ]
    figure = [f"figures/metrics.{ending}" for ending in ("csv", "pdf", "png")]
    assert written(results, ["metrics"]) == [*figure, "report.html", *tables]
    text = page_of(results).text
    assert "Metrics against each other: DeiT-T" in text and run.name in text


def test_there_is_a_table_or_figure_for_every_artefact_of_the_paper_and_for_our_own():
    assert set(names()) == {
        *("allocators", "authors_code", "glf_q", "metrics", "out_of_domain", "pareto", "readings", "rotation"),
        *(f"table{number}" for number in (2, 3, 4, 5, 6, 9, 10)),
        *(f"figure{number}" for number in (1, 5, 6, 7, 8)),
        "grid",
        "verify",
        "records",
    }


def test_what_is_damaged_is_left_out_and_named_and_the_rest_is_there(results, capsys):
    results.measured("table3", ADALOG)
    damaged = {}
    for seed, (file, content) in enumerate(
        [("metrics.json", b"{}"), ("environment.json", b"\xff"), ("plan.json", b""), ("config.yaml", None)]
    ):
        run = results.measured("table3", f"{ADALOG} seed={1 + seed}")
        (run / file).unlink() if content is None else (run / file).write_bytes(content)
        damaged[run] = file
    results.measured("table3", ADALOG.replace("adalog", "lampq"))
    (results.path / "experiments" / "table3" / "torn.json").write_bytes(b"\xff")
    assert main(["report", "--results", str(results.path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5 and all(line.startswith("left out: ") for line in lines)
    for run, file in damaged.items():
        assert any(f"{run}: {file} " in line for line in lines)
    assert "44.00" in (results.path / "tables" / "table3.md").read_text()
    assert (results.path / "runs.csv").read_text().count("\n") == 3, "a header and two rows"
