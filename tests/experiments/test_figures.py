"""Figures of the paper, drawn from runs: pictures, the numbers in them, and what is not there."""

import csv
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.figures import FIGURES
from experiments.frame import frame
from lampq.launch.cells import FAILED, NOT_AVAILABLE
from tests.experiments.results_folder import components, scored_plan, searched_plan

EVERYTHING = {"layers": ("qkv", "proj", "fc1", "fc2"), "modules": ("MSA", "MLP"), "blocks": ("block",)}
LAYERS = {"layers": ("qkv", "proj", "fc1", "fc2")}
TWO = {"layers": ("qkv", "fc1")}
VT_PTQ_IS_MISSING = {"state": NOT_AVAILABLE, "reason": "method=vt_ptq does not exist"}


def measured(results, name):
    """Results of one experiment, of DeiT-S."""
    if name == "figure1":
        results.sensitivity(name, "model=deit_small", components(EVERYTHING))
    elif name == "figure6":
        for bits, drop in (("null", 1.0), ("2", 2.0)):
            overrides = f"model=deit_small sensitivity.first_block_bits={bits}"
            results.sensitivity(name, overrides, components(TWO, drop=drop))
    elif name == "figure8":
        for model, drop in (("deit_small", 1.0), ("swin_tiny", 2.0)):
            results.sensitivity(name, f"model={model}", components(LAYERS, drop=drop))
    elif name == "metrics":
        results.measured(name, "model=deit_small bits=3 method=lampq", plan=scored_plan())
        results.sensitivity(name, "model=deit_small method=single_layers", components(LAYERS))
    elif name == "pareto":
        for bits in (3, 4):
            for method in ("adalog", "lampq"):
                right = {"adalog": 30, "lampq": 40}[method] + bits
                kept = {"outcomes": (right, 80 - right, 0, 20), "average_weight_bits": bits - 0.01}
                results.measured(name, f"model=deit_small bits={bits} method={method}", **kept)
    else:
        results.measured(name, "model=deit_small bits=3 method=lampq")
        results.cell(name, "model=deit_small bits=3 method=vt_ptq", **VT_PTQ_IS_MISSING)


def drawn(results, name):
    drawing = FIGURES[name](frame(results.path, [name]))
    files = drawing.write(results.path / "figures")
    return drawing, list(csv.DictReader(files[-1].open())) if files else []


@pytest.fixture
def axes(monkeypatch):
    """Axes of the figure drawn last, in their order; pictures are not written, which takes a second each."""
    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: seen.__setitem__(slice(None), figure.axes))
    return seen


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_a_png_a_pdf_and_the_numbers(results, name):
    measured(results, name)
    drawing, rows = drawn(results, name)
    path = results.path / "figures" / f"{name}.png"
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and image.width > 300
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert len(rows) == len(drawing.numbers) > 0
    assert not name.startswith("figure") or drawing.title.startswith(f"Figure {name.removeprefix('figure')}:")
    assert any("abcdef123456" in remark and "run.py number=1" in remark for remark in drawing.remarks)


@pytest.mark.parametrize("name", FIGURES)
def test_where_nothing_is_measured_there_is_no_picture_but_the_reason(results, name):
    drawing, _ = drawn(results, name)
    assert drawing.figure is None and drawing.numbers == []
    assert drawing.remarks == ["Nothing is measured yet: missing."]
    results.cell(name, "model=deit_small method=lampq sensitivity.first_block_bits=2", FAILED, reason="no card")
    assert drawn(results, name)[0].remarks == ["Nothing is measured yet: failed."]
    assert not (results.path / "figures").exists()


def test_figure_1_has_blocks_modules_and_layers_with_the_model_alone_as_a_dashed_line(results, axes):
    measured(results, "figure1")
    _, rows = drawn(results, "figure1")
    assert {r["unit"]: r["top1"] for r in reversed(rows)}["none"] == "80.0"
    assert [panel.get_title() for panel in axes] == ["(a) blocks", "(a) modules", "(b) layers"]
    lines = [{text.get_text() for text in panel.get_legend().get_texts()} for panel in axes]
    assert lines == [{"without it", *EVERYTHING[unit]} for unit in ("blocks", "modules", "layers")]
    assert all(set(panel.lines[0].get_ydata()) == {80.0} for panel in axes)
    assert len(rows) == 1 + 2 * 7 and {row["model"] for row in rows} == {"DeiT-S"}


def test_figure_6_has_a_line_for_each_context_in_both_panels(results, axes):
    measured(results, "figure6")
    _, rows = drawn(results, "figure6")
    assert [panel.get_title() for panel in axes] == ["(a) qkv", "(b) fc1"]
    for panel in axes:
        texts = [text.get_text() for text in panel.get_legend().get_texts()]
        assert texts == ["full precision (32 bits)", "first block at 2 bits"]
    drops = {(r["first_block_bits"], r["type"], r["block"]): r["top1_drop"] for r in rows if r["unit"] == "layers"}
    # Drops rise by 1 point a component in full precision, by 2 after a first block at 2 bits.
    assert drops["null", "qkv", "0.0"] == "1.0" and drops["2", "qkv", "0.0"] == "2.0"
    assert drops["null", "fc1", "1.0"] == "4.0" and drops["2", "fc1", "1.0"] == "8.0"
    shown = [[list(c.lines[0].get_ydata()) for c in panel.containers] for panel in axes]
    assert shown == [[[1, 3], [2, 6]], [[2, 4], [4, 8]]]


def test_figure_6_draws_one_context_where_the_other_is_missing(results, axes):
    results.sensitivity("figure6", "model=deit_small sensitivity.first_block_bits=2", components(TWO))
    drawn(results, "figure6")
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["first block at 2 bits"]


def test_figure_8_has_a_panel_for_each_model(results, axes):
    measured(results, "figure8")
    _, rows = drawn(results, "figure8")
    assert [panel.get_title() for panel in axes] == ["(a) DeiT-S", "(b) Swin-T"]
    lowest = {model: min(float(r["top1"]) for r in rows if r["model"] == model) for model in ("DeiT-S", "Swin-T")}
    assert lowest == {"DeiT-S": 80 - 8 * 1, "Swin-T": 80 - 8 * 2}


def test_figure_5_has_the_trace_before_and_after_type_scaling_and_names_vt_ptq(results, axes):
    measured(results, "figure5")
    drawing, rows = drawn(results, "figure5")
    assert drawing.remarks[0] == "Panel (a), VT-PTQ: not available."
    assert [panel.get_title() for panel in axes] == ["LampQ without type scaling: tr(F)", "(b) LampQ: Ω = α tr(F)"]
    before, after = (
        {(r["component"], int(r["block"])): float(r["value"]) for r in rows if r["metric"] == panel.get_title()}
        for panel in axes
    )
    plan = searched_plan()
    layers = [site for site in plan.sites if site.allocated]
    assert before == {(site.type, site.block): plan.origin["fisher_traces"][site.name] for site in layers}
    assert after == {(site.type, site.block): site.score for site in layers} and len(after) == 8


def test_figure_5_tells_the_error_of_type_scaling_over_blocks_and_images(results):
    scaling = {"measure": "loss", "drop": {"qkv": 0.0167, "fc1": 0.029}, "drop_standard_error_over_images": {}}
    plan = searched_plan()
    told = plan.origin | {"type_scaling": scaling | {"drop_standard_error": {"qkv": 0.0038, "fc1": None}}}
    results.measured("figure5", "model=deit_small bits=3 method=lampq", plan=replace(plan, origin=told))
    drawing, _ = drawn(results, "figure5")
    assert drawing.remarks[1] == (
        "A_t (nats of loss), its standard error over the sampled blocks and the images of D: qkv 0.0167 ± 0.0038, "
        "fc1 0.029 ± ?."
    )


def test_figure_5_has_a_third_panel_where_vt_ptq_was_run(results, axes):
    measured(results, "figure5")
    results.measured("figure5", "model=deit_small bits=3 method=vt_ptq")
    drawing, rows = drawn(results, "figure5")
    assert len(axes) == 3 and axes[0].get_title() == "(a) VT-PTQ"
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["MSA", "MLP"], "it scores modules"
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["qkv", "proj", "fc1", "fc2"]
    shown = {(r["component"], int(r["block"])): float(r["value"]) for r in rows if "VT-PTQ" in r["metric"]}
    scores = {s.name: s.score for s in searched_plan().sites}
    assert shown == {
        (module, block): scores[f"blocks.{block}.{layer}"]
        for module, layer in (("MSA", "qkv"), ("MLP", "fc1"))
        for block in (0, 1)
    }
    assert not any("VT-PTQ" in remark for remark in drawing.remarks)


def test_figure_7_has_the_bits_of_every_layer_and_names_vt_ptq(results, axes):
    measured(results, "figure7")
    drawing, rows = drawn(results, "figure7")
    assert drawing.remarks[0] == "VT-PTQ: not available."
    assert [panel.get_title() for panel in axes] == ["(b) LampQ, 2.97 bits on average"]
    assert {r["layer"]: int(r["bits"]) for r in rows} == searched_plan().layer_bits()
    drawn_bits = sorted(text.get_text() for text in axes[0].texts)
    assert drawn_bits == sorted(str(bits) for bits in searched_plan().layer_bits().values())


def test_figure_7_has_both_methods_beside_each_other(results, axes):
    measured(results, "figure7")
    results.measured("figure7", "model=deit_small bits=3 method=vt_ptq", average_weight_bits=3.0)
    drawing, rows = drawn(results, "figure7")
    titles = [panel.get_title() for panel in axes]
    assert titles == ["(a) VT-PTQ, 3.00 bits on average", "(b) LampQ, 2.97 bits on average"]
    assert {r["method"] for r in rows} == {"vt_ptq", "lampq"} and not any("not avail" in r for r in drawing.remarks)


@pytest.mark.parametrize("name", ["figure1", "figure5", "figure6", "figure7"])
def test_a_model_of_the_paper_is_drawn_rather_than_a_stand_in(results, axes, name):
    extra = " sensitivity.first_block_bits=null" if name == "figure6" else ""
    runs = {}
    for model in ("shapes_vit", "deit_small", "a_small_one"):
        overrides = f"model={model} bits=3 method=lampq{extra}"
        if name in ("figure1", "figure6"):
            runs[model] = results.sensitivity(name, overrides, components(EVERYTHING))
        else:
            runs[model] = results.measured(name, overrides)
    drawing, _ = drawn(results, name)
    assert any(runs["deit_small"].name in remark for remark in drawing.remarks)


def test_the_largest_sample_set_is_drawn_and_named(results, axes):
    for scale, images, base in (("smoke", 64, 70.0), ("full", 1024, 75.0), ("subset", 500, 72.0)):
        rows = components(EVERYTHING, base=base)
        results.sensitivity("figure1", f"model=deit_small scale={scale}", rows, sample_images=images)
    drawing, rows = drawn(results, "figure1")
    assert rows[0]["top1"] == "75.0"
    assert any("D of 1024 training images" in remark for remark in drawing.remarks)


def test_a_single_run_under_the_experiments_name_is_drawn_with_the_model_it_had(results, axes):
    results.sensitivity("figure1", "sensitivity.bits=1", components(EVERYTHING), model="deit_tiny")
    _, rows = drawn(results, "figure1")
    assert {row["model"] for row in rows} == {"DeiT-T"}


def test_the_pareto_figure_has_a_line_an_allocator_and_full_precision_as_measured(results, axes):
    measured(results, "pareto")
    absent = "model=deit_small bits=3 method=lampq_plus"
    results.cell("pareto", absent, state=NOT_AVAILABLE, reason="method=lampq_plus does not exist")
    drawing, rows = drawn(results, "pareto")
    texts = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert texts == ["full precision", "equal bits", "LampQ"] and axes[0].lines[-1].get_ydata()[0] == 80
    assert any("LampQ+: not available (method=lampq_plus does not exist)." in remark for remark in drawing.remarks)
    (shown, points) = ([list(c.lines[0].get_xdata()) for c in p.containers] for p in axes)
    assert shown == [[2.99, 3.99]] * 2 and points == [[2.99, 3.99]], "equal bits are not searched on D"
    assert [list(c.lines[0].get_ydata()) for c in axes[0].containers] == [[33, 34], [43, 44]]
    assert {(r["method"], r["w/a"], r["top1"]) for r in rows} >= {
        ("equal bits", "3/3", "33.0"),
        ("LampQ", "4/4", "44.0"),
    }
    ahead = {r["w/a"]: r["uniform_difference"] for r in rows if r["method"] == "LampQ"}
    assert {bits: float(value) for bits, value in ahead.items()} == {"3/3": 10, "4/4": 10}


def test_the_metrics_figure_has_a_panel_a_metric_and_what_layers_cost(results, axes):
    measured(results, "metrics")
    _, rows = drawn(results, "metrics")
    assert [panel.get_title() for panel in axes] == ["Fisher trace", "LampQ: Ω", "loss increase at 1 bits"]
    assert [panel.get_yscale() for panel in axes] == ["log", "log", "linear"]
    assert len(rows) == 3 * 8 and {r["standard_error"] for r in rows if "Ω" in r["metric"]} == {""}
    assert [len(panel.containers) for panel in axes] == [0, 0, 4], "error bars where they are known"
