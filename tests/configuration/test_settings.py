"""Configuration files and the checks on them."""

import copy
import functools
import inspect
import math
import re
from fractions import Fraction
from pathlib import Path

import hydra
import pytest
import torch
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class

from lampq.configuration.settings import PARTS, check, check_values, resolved
from lampq.errors import LampQError
from lampq.launch.command_line import config_folder
from lampq.sensitivity.metric import metrics

CONF = config_folder()
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))
QUICK = ("base_quantizer=rtn",)
INDEPENDENT = ("allocator=output_fisher", "activation_rule=independent")


@functools.cache
def _composed(*overrides):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def compose(*overrides):
    """Compose as the command line does; groups once a test run, keys by Hydra's own grammar on a copy."""
    groups = [o for o in overrides if (CONF / o.partition("=")[0]).is_dir()]
    cfg = copy.deepcopy(_composed(*groups))
    keys = OverridesParser.create().parse_overrides([o for o in overrides if o not in groups])
    ConfigLoaderImpl._apply_overrides_to_config(keys, cfg)
    return cfg


def settings(*overrides):
    return check(compose(*QUICK, *overrides))


@pytest.fixture
def coco_folder(tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        (tmp_path / "annotations" / f"instances_{split}.json").write_text("{}")
    return tmp_path


@pytest.fixture
def imagenet_folder(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    return tmp_path


# The files


def test_every_key_has_a_comment():
    for path in CONF.rglob("*.yaml"):
        lines = path.read_text().splitlines()
        template = False  # the text of --help is no list of keys
        for number, line in enumerate(lines):
            template = template and (line.startswith("      ") or not line)
            if not template and re.match(r"\s*(- )?[\w/ ]+:( |$)", line) and "defaults:" not in line:
                own = re.search(r"\s# \w", line)
                assert own or re.match(r"\s*# \w", lines[number - 1]), f"{path}, line {number + 1}: {line}"
            template = template or line.strip() == "template: |"


def test_every_option_says_what_it_is():
    for path in CONF.glob("*/*.yaml"):
        first = next(line for line in path.read_text().splitlines() if "@package" not in line)
        assert first.startswith("# ") and first.rstrip().endswith((".", "VALUE", "NAME", "plan.json")), path


def test_keys_of_a_part_are_its_constructors_parameters():
    for option in (o for o in OPTIONS if o.partition("=")[0] in PARTS):
        group, _, name = option.partition("=")
        values = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
        parameters = list(inspect.signature(get_class(values.pop("_target_"))).parameters)
        if parameters == ["metric", "settings"]:  # those of the metric that it names
            parameters = ["metric", *inspect.signature(metrics()[values["metric"]]).parameters]
        assert list(values) == parameters, option


def test_defaults_of_a_part_are_those_of_its_file():
    """Beside variants; null labels of lampq are the task's."""
    compared = 0
    for path in sorted(path for group in PARTS for path in (CONF / group).glob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        part = get_class(values.pop("_target_"))
        if getattr(part, "name", None) != path.stem:
            continue
        parameters = inspect.signature(part).parameters
        for name, value in values.items():
            composed = isinstance(value, str) and ("${" in value or value == "???")
            if not composed and (path.stem, name) != ("lampq", "labels"):
                default = parameters[name].default
                assert value == (list(default) if isinstance(default, tuple) else default), f"{path.stem}.{name}"
                compared += 1
    assert compared > 80


@pytest.mark.parametrize("group", sorted({o.partition("=")[0] for o in OPTIONS} - {"experiment"}))
def test_every_option_composes_and_passes_the_check(group, imagenet_folder, coco_folder):
    """Those of experiments are run."""
    extra = {
        "dataset=coco": [f"dataset.root={coco_folder}"],
        "dataset=imagenet": [f"dataset.root={imagenet_folder}"],
        "model=timm_vit": ["model.name=deit3_small_patch16_224.fb_in1k"],
        "bit_set=b678910": ["bits=8"],
        "scale=full": [f"dataset.root={imagenet_folder}"],
        "scale=subset": [f"dataset.root={imagenet_folder}"],
    }
    for option in (o for o in OPTIONS if o.startswith(f"{group}=")):
        more = ["model.checkpoint=random"] if "mask_rcnn_swin" in option else extra.get(option, [])
        try:
            cfg = compose(option, *more)
            if option != "allocator=from_plan":  # needs a plan
                check(cfg)
        except LampQError as error:
            raise AssertionError(option) from error
        if group not in ("method", "scale", "hardware", "reading"):
            file = yaml.safe_load((CONF / group / f"{option.partition('=')[2]}.yaml").read_text())
            assert set(file) == set(cfg[group]), option


def test_published_accuracies_belong_to_exact_weight_tags():
    for path in (CONF / "model").glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        if values.get("published_top1") is not None:
            assert "." in values["name"] and 70 < values["published_top1"] < 90, path


def test_a_method_chooses_base_quantizer_and_allocator():
    for method, chosen in {
        "rtn": ("RoundToNearest", "uniform"),
        "adalog": ("AdaLog", "uniform"),
        "lampq": ("AdaLog", "lampq"),
    }.items():
        parts = check(compose(f"method={method}", "bits=4"))
        assert (type(parts.base_quantizer).__name__, parts.allocator.name) == chosen


def test_the_command_line_wins_over_a_method():
    assert check(compose("method=adalog", "base_quantizer=rtn")).base_quantizer.name == "rtn"


# The checks


def test_defaults():
    chosen = settings()
    assert chosen.budget.weight_bits == chosen.budget.activation_bits == Fraction(3)
    assert chosen.budget.candidates == (2, 3, 4, 5)
    assert chosen.budget.fixed_site_bits == (3, 3)
    assert (chosen.seed, chosen.threads, chosen.bank, chosen.force, chosen.baseline) == (
        0,
        None,
        "reuse",
        False,
        "uniform",
    )
    assert chosen.results == Path("results")
    assert chosen.resolved["weight_bits"] == 3 and chosen.resolved["allocator"]["mu"] == 0.5


REACHES = [
    (["bits=4"], "budget.weight_bits", 4),
    (["bits=4"], "budget.activation_bits", 4),
    (["bits=4"], "budget.candidates", (2, 3, 4, 5, 6)),
    (["bits=8"], "budget.candidates", (6, 7, 8, 9, 10)),
    (["bits=2"], "budget.candidates", (1, 2, 3, 4)),
    (["bits=15"], "budget.candidates", (13, 14, 15, 16)),
    (["bits=3.3"], "budget.weight_bits", Fraction(33, 10)),
    (["bits=4.5"], "budget.fixed_site_bits", (4, 4)),
    (["weight_bits=4", "activation_bits=8"], "budget.weight_bits", 4),
    (["weight_bits=4", "activation_bits=8"], "budget.activation_bits", 8),
    (["weight_bits=4", "activation_bits=8"], "budget.fixed_site_bits", (4, 8)),
    (["weight_bits=3.5", "activation_bits=8"], "budget.activation_bits", 8),
    (["activation_rule=follow"], "budget.activation_rule", "follow"),
    (["operand_bits=follow_qkv"], "budget.operand_bits", "follow_qkv"),
    (["fixed_site_bits=8"], "budget.fixed_site_bits", (8, 8)),
    (["budget=bops"], "budget.unit", "bops"),
    (["budget=packed_bytes", "budget_limit=450000"], "budget.limit", 450000),
    (["budget=bops", "budget_limit=2.5e8"], "budget.limit", 250_000_000),
    (["ties=modules"], "budget.ties", "modules"),
    (
        ["ties=[[blocks.0.*,blocks.1.*],[block 5,fc2]]"],
        "budget.ties",
        (("blocks.0.*", "blocks.1.*"), ("block 5", "fc2")),
    ),
    (["pins={blocks.0.*:8}"], "budget.pins", (("blocks.0.*", 8),)),
    (["pins={block 0:8,fc2:4}"], "budget.pins", (("block 0", 8), ("fc2", 4))),
    (["budget=bops", "budget_limit=1e8", "bit_set.bits=[4,8]"], "budget.candidates", (4, 8)),
    ([*INDEPENDENT, "activation_bits=4.5"], "budget.activation_bits", Fraction(9, 2)),
    ([*INDEPENDENT, "activation_bits=4.5"], "budget.input_candidates", (2, 3, 4, 5, 6, 7)),
    ([*INDEPENDENT, "activation_bits=4.5", "bit_set.bits=[3,6]"], "budget.candidates", (3, 6)),
    (["hardware=int4_int8"], "budget.candidates", (4, 8)),
    (["hardware=int4_int8"], "budget.fixed_site_bits", (8, 8)),
    (["hardware=int4_int8", "bits=7"], "budget.weight_bits", 7),
    (["hardware=int4", "allocator=uniform"], "budget.weight_bits", 4),
    (["hardware=powers_of_two", "bits=3", "fixed_site_bits=6"], "budget.fixed_site_bits", (6, 6)),
    (["bit_set=b12345"], "budget.candidates", (1, 2, 3, 4, 5)),
    (["bit_set.bits=[4,2,3]"], "budget.candidates", (2, 3, 4)),
    (["seed=7"], "seed", 7),
    (["evaluation_images=64"], "evaluation_images", 64),
    (["device=cpu"], "device", "cpu"),
    (["threads=2"], "threads", 2),
    (["bank=fresh"], "bank", "fresh"),
    (["force=true"], "force", True),
    (["baseline=none"], "baseline", "none"),
    (["prefix_memory_gib=0.5"], "prefix_memory_gib", 0.5),
    (["observation_memory_gib=0"], "observation_memory_gib", 0),
    (["paths.results=elsewhere"], "results", Path("elsewhere")),
    (["paths.cache='~/x'"], "cache", Path.home() / "x"),
    (["model=shapes_swin"], "model.name", "shapes_swin"),
    (["dataset.batch_size=7"], "dataset.batch_size", 7),
    (["allocator=uniform"], "allocator.name", "uniform"),
    (["lampq.mu=1"], "allocator.mu", 1),
    (["lampq.beta=3"], "allocator.beta", 3),
    (["lampq.gamma=3.2"], "allocator.gamma", 3.2),
    (["allocator.solver=dynamic_program"], "allocator.solver", "dynamic_program"),
    (["logger=wandb", "logger.mode=offline", "logger.tags=[a,b]"], "logger.tags", ["a", "b"]),
]
"""Overrides, what they set, and what it then is."""


def test_every_key_reaches_the_settings():
    def value(of, field):
        for name in field.split("."):
            of = of.get(name) if isinstance(of, dict) else getattr(of, name)
        return of

    unchanged = settings()
    for overrides, field, expected in REACHES:
        assert value(settings(*overrides), field) == expected, overrides
        if expected != "cpu":  # also what auto is on a machine without a GPU
            assert value(unchanged, field) != expected, overrides


def test_auto_bit_set_stays_within_the_base_quantizer(monkeypatch):
    from lampq.base_quantizers.rtn import RoundToNearest

    monkeypatch.setattr(RoundToNearest, "maximum_bits", 8)
    assert settings("bits=8").budget.candidates == (6, 7, 8)
    monkeypatch.setattr(RoundToNearest, "minimum_bits", 2)
    assert settings("bits=2").budget.candidates == (2, 3, 4)


def test_device_auto_is_decided(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert settings().device == "cuda"
    assert settings("device=cuda:1").device == "cuda:1"
    with pytest.raises(LampQError, match=r"^device=cuda:2: the last CUDA device here is cuda:1"):
        settings("device=cuda:2")


MISTAKES = [
    (["bits=0"], "bits=0: must be a number between 1 and 16"),
    (["bits=17"], "bits=17: must be a number between 1 and 16"),
    (["bits=three"], "bits=three: must be a number between 1 and 16"),
    (["bits=null"], "bits=null: must be a number"),
    (["bits=true"], "bits=true: must be a number"),
    (["bits='3'"], "bits='3': must be a number"),
    (["bits=nan"], "bits=nan: must be a number"),
    (["bits=[3,4]"], "bits=[3,4]: must be a number"),
    (["weight_bits=-1"], "weight_bits=-1: must be a number between 1 and 16"),
    (["activation_bits=x"], "activation_bits=x: must be a number between 1 and 16"),
    (["activation_bits=4.5"], "activation_bits=4.5: must be an integer, or equal to weight_bits"),
    (
        ["weight_bits=3.5", "activation_bits=8", "activation_rule=follow"],
        "activation_bits=8.0: with activation_rule=follow it must differ from weight_bits=3.5 by an integer",
    ),
    (
        ["activation_rule=folow"],
        "activation_rule=folow: must be one of fixed, follow, independent; did you mean follow?",
    ),
    (["budget=bytes"], "budget=bytes: must be one of average_bits, packed_bytes, bops"),
    (["budget_limit=9"], "budget_limit=9: budget=average_bits is limited by weight_bits; leave it null, or choose"),
    (["budget=bops", "budget_limit=0"], "budget_limit=0: must be a number between 1 and 1e+18"),
    (["budget=bops", "budget_limit=many"], "budget_limit=many: must be a number"),
    (["ties=module"], "ties=module: must be one of none, modules, blocks, types; did you mean modules?"),
    (
        ["ties=[fc1,fc2]"],
        "ties=[fc1,fc2]: must be one of none, modules, blocks, types, or a list of lists of layers",
    ),
    (["pins=8"], "pins=8: must be layers and their bits, for example {blocks.0.*:8}, or null"),
    (["pins={fc2:eight}"], "pins.fc2=eight: must be an integer between 1 and 16"),
    (
        ["hardware=int4_int8", "bits=3"],
        "bit_set.bits=[4,8]: no plan of these averages weight_bits=3 or less; add 3",
    ),
    (
        ["activation_rule=independent"],
        "activation_rule=independent: allocator=lampq does not score weights and inputs by themselves; choose",
    ),
    (
        ["activation_rule=independent", "allocator=lampq_context"],
        "activation_rule=independent: with budget=average_bits inputs have a limit of their own, and "
        "allocator=lampq_context keeps one limit only; choose budget=bops, or",
    ),
    (["allocate=operands"], "allocate=operands: must be one of layers, layers_and_operands, all"),
    (
        ["allocator=hawq_v2", "allocate=all", "budget=bops"],
        "allocate=all: allocator=hawq_v2 scores layers by metric=hawq_v2, which scores nothing else (these do: ",
    ),
    (
        ["allocator=greedy", "allocator.screen=fisher", "allocate=all", "budget=bops"],
        "allocate=all: allocator=greedy orders layers by allocator.screen=fisher, which scores nothing else",
    ),
    (["allocator=vt_ptq", "allocate=all", "budget=bops"], "allocate=all: allocator=vt_ptq chooses the bits of the 4N"),
    (
        ["allocator=greedy", "allocate=all"],
        "allocate=all: with budget=average_bits operands have a limit of their own, and allocator=greedy keeps one",
    ),
    (
        ["allocate=all"],
        "allocate=all: with budget=average_bits operands have a limit of their own, and allocator=lampq",
    ),
    (
        ["allocator=output_fisher", "allocate=all", "operand_bits=follow_qkv"],
        "operand_bits=follow_qkv: with allocate=all operands have bits of their own; choose target, or allocate=layers",
    ),
    (
        [*INDEPENDENT, "activation_bits=8", "bit_set.bits=[2,3,4]"],
        "activation_bits=8: inputs of bit_set.bits=[2,3,4] cannot average it; add bits below or above it",
    ),
    (
        [*INDEPENDENT, "sensitivity=components"],
        "activation_rule=independent: sensitivity has one number for a layer's bits; choose fixed",
    ),
    (
        [*INDEPENDENT, "budget=bops", "operand_bits=follow_qkv"],
        "operand_bits=follow_qkv: with activation_rule=independent and budget=bops a pair of qkv's bits would",
    ),
    (["operand_bits=qkv"], "operand_bits=qkv: must be one of target, follow_qkv"),
    (["fixed_site_bits=targt"], "fixed_site_bits=targt: must be target, or an integer"),
    (["fixed_site_bits=0"], "fixed_site_bits=0: must be an integer between 1 and 16"),
    (["fixed_site_bits=2.5"], "fixed_site_bits=2.5: must be target, or an integer"),
    (["bit_set.bits=[]"], "bit_set.bits=[]: must be a list of different integers from 1 to 16"),
    (["bit_set.bits=3"], "bit_set.bits=3: must be a list of different integers from 1 to 16"),
    (["bit_set.bits=[2,2,3]"], "bit_set.bits=[2,2,3]: must be a list of different integers"),
    (["bit_set.bits=[0,3]"], "bit_set.bits=[0,3]: must be a list of different integers from 1 to 16"),
    (["bit_set.bits=[3,17]"], "bit_set.bits=[3,17]: must be a list of different integers from 1 to 16"),
    (["bit_set.bits=[2.5,3]"], "bit_set.bits=[2.5,3]: must be a list of different integers"),
    (["bit_set.bits=[4,5]"], "bit_set.bits=[4,5]: no plan of these averages weight_bits=3 or less; add 3"),
    (["bit_set.bits=[1,2]"], "bit_set.bits=[1,2]: weight_bits=3 cannot be spent on these; add 3 or lower"),
    (["bits=8", "bit_set=b2345"], "bit_set.bits=[2,3,4,5]: weight_bits=8 cannot be spent on these; add 8"),
    (["allocator=uniform", "bits=3.5"], "weight_bits=3.5: allocator=uniform needs an integer"),
    (["seed=-1"], "seed=-1: must be an integer between 0 and"),
    (["seed=x"], "seed=x: must be an integer"),
    (["evaluation_images=0"], "evaluation_images=0: must be an integer of at least 1, or null"),
    (["device=gpu"], "device=gpu: must be auto, cpu, cuda or cuda:N; did you mean cuda?"),
    (["device=0"], "device=0: must be auto, cpu, cuda or cuda:N"),
    (["threads=0"], "threads=0: must be an integer between 1 and 1024, or null"),
    (["bank=refresh"], "bank=refresh: must be one of reuse, fresh; did you mean fresh?"),
    (["force=yes please"], "force=yes please: must be true or false"),
    (["baseline=unifrom"], "baseline=unifrom: must be one of uniform, none; did you mean uniform?"),
    (["observation_memory_gib=-1"], "observation_memory_gib=-1: must be a number between 0 and 65536"),
    (["prefix_memory_gib=-1"], "prefix_memory_gib=-1: must be a number between 0 and 65536"),
    (["paths.results=''"], "paths.results='': must be a text"),
    (["paths.cache=3"], "paths.cache=3: must be a text"),
    (["lampq.mu=6"], "lampq.mu=6: must be a fraction of the blocks in (0, 1], for example 0.5"),
    (["lampq.mu=0"], "lampq.mu=0: must be a fraction of the blocks in (0, 1]"),
    (["lampq.beta=0"], "lampq.beta=0: must be an integer"),
    (["lampq.beta=2.5"], "lampq.beta=2.5: must be an integer"),
    (["lampq.gamma=1"], "lampq.gamma=1: must be a number above 1"),
    (
        ["allocator.solver=lip"],
        "allocator.solver=lip: must be one of ilp, dynamic_program, greedy; did you mean ilp?",
    ),
    (["dataset.batch_size=0"], "dataset.batch_size=0: must be an integer of at least 1"),
    (["dataset.calibration_images=x"], "dataset.calibration_images=x: must be an integer"),
    (["+bit=3"], "bit=3: there is no such key; did you mean bits?"),
    (["+lampq.muu=1"], "lampq.muu=1: there is no such key; did you mean mu?"),
    (["+paths.resutls=x"], "paths.resutls=x: there is no such key; did you mean results?"),
    (["+logger.projct=x"], "logger.projct=x: there is no such key; known: name"),
    (["+dataset.batchsize=3"], "dataset.batchsize=3: Shapes has no such key; did you mean batch_size?"),
    (["~seed"], "seed is missing: add seed=VALUE"),
    (["~model.name"], "model.name is missing: add model.name="),
    (["model=timm_vit"], "model.name is missing: add model.name=timm's name of a ViT"),
    (["dataset=imagenet"], "dataset.root is missing: add dataset.root=the folder that holds train/ and val/"),
    (["dataset=imagenet", "dataset.root=/nowhere"], "dataset.root=/nowhere: has no folder train/"),
    (["dataset=coco"], "dataset.root is missing: add dataset.root=the folder that holds train/ and val/ (of COCO"),
    (["dataset=coco", "dataset.root=/nowhere"], "dataset.root=/nowhere: has no folder train2017/"),
    (["allocator=from_plan"], "allocator.plan is missing: add allocator.plan=the plan.json of a run"),
    (["allocator=from_plan", "allocator.plan=/nowhere.json"], "plan file /nowhere.json: No such file"),
    (["bits=${nowhere}"], "Interpolation key 'nowhere' not found"),
    (["lampq.mu=${oc.env:LAMPQ_NOT_SET}"], "LAMPQ_NOT_SET"),
    (["logger=wandb", "logger.mode=on"], "logger.mode=on: must be one of auto, online, offline"),
    (["logger=wandb", "logger.timeout=0"], "logger.timeout=0: must be a number above 0"),
    (["logger=wandb", "logger.tags=first"], "logger.tags=first: must be a list of words"),
    (["logger=wandb", "logger.project=null"], "logger.project=null: must be a text"),
    (["logger.name=tensorboard"], "logger.name=tensorboard: must be one of csv, wandb"),
    (
        ["model._target_=builtins.eval"],
        "model._target_=builtins.eval: only classes under lampq.models. are accepted",
    ),
    (
        ["threads=100000000000000000000000"],
        "threads=100000000000000000000000: must be an integer between 1 and 1024",
    ),
    (["prefix_memory_gib=1e300"], "prefix_memory_gib=1e+300: must be a number between 0 and 65536"),
    (["lampq.gamma=1e300"], "lampq.gamma=1e+300: must be a number above 1"),
    (
        ["model=mask_rcnn_swin_tiny"],
        "model.checkpoint=null: detectors are not downloaded; get the file and give it",
    ),
    (["model.checkpoint=3"], "model.checkpoint=3: must be a text, not empty, or null"),
    (["model.checkpoint=[a]"], "model.checkpoint=[a]: must be a text, not empty, or null"),
    (["model.checkpoint=/nowhere.pth"], "model.checkpoint=/nowhere.pth: no such file"),
    (["paths.cache=/proc/version"], "paths.cache=/proc/version: /proc/version is a file; give a folder"),
    (["allocator=from_plan", "allocator.plan=null"], "allocator.plan=null: must be a text"),
    (
        ["weight_bits=3", "activation_bits=1", "activation_rule=follow"],
        "activation_rule=follow: a layer of 2 bits would have inputs of 0, which must be 1 to 16; leave 2 out of",
    ),
    (["~seed", "+sed=3"], "sed=3: there is no such key; did you mean seed?"),
]
"""Overrides, and what is said of them."""


def test_a_mistake_is_named_in_one_line_before_any_work():
    for overrides, message in MISTAKES:
        with pytest.raises(LampQError) as caught:
            settings(*overrides)
            pytest.fail(f"accepted: {overrides}")
        assert message in str(caught.value), overrides
        assert "\n" not in str(caught.value), overrides


def test_bits_the_base_quantizer_is_not_defined_at(monkeypatch):
    from lampq.base_quantizers.rtn import RoundToNearest

    monkeypatch.setattr(RoundToNearest, "minimum_bits", 2)
    monkeypatch.setattr(RoundToNearest, "maximum_bits", 8)
    for overrides, key in [
        (["bit_set.bits=[1,3]"], "bit_set.bits: 1 bits"),
        (["lampq.beta=1"], "lampq.beta: 1 bits"),
        (["pins={fc2:9}"], "pins.fc2: 9 bits"),
        (["pins={fc2:8}", "weight_bits=3", "activation_bits=5", "activation_rule=follow"], "pins.fc2: 10 bits"),
        (["bit_set.bits=[3,9]"], "bit_set.bits: 9 bits"),
        (["fixed_site_bits=10"], "fixed_site_bits: 10 bits"),
        (["allocator=uniform", "bits=9", "fixed_site_bits=8"], "weight_bits: 9 bits"),
        (["weight_bits=4", "activation_bits=9", "fixed_site_bits=8"], "activation_bits: 9 bits"),
    ]:
        with pytest.raises(LampQError) as caught:
            settings(*overrides)
        assert str(caught.value).startswith(f"{key} are asked for, but base_quantizer=rtn is defined from 2 to 8 bits")


def test_cuda_asked_for_but_absent(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(LampQError, match=rf"^device={device}: PyTorch finds no CUDA device here; use device=cpu"):
            settings(f"device={device}")


ABSURD = [None, True, "", "x" * 5000, "\0", -1, 1.5, 10**23, 10**5000, 1e300, math.nan, math.inf, [], [None], {"a": 1}]


def _leaves(path, values):
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from _leaves((*path, key), value)


@pytest.mark.parametrize(
    "options",
    [
        ("base_quantizer=rtn",),
        ("base_quantizer=qdrop", "allocator=clado", "logger=wandb"),
        ("dataset=shapes_coco", "model=shapes_mask_rcnn", "sensitivity=components"),
        ("dataset=psaq", "allocator=lampq_plus"),
    ],
    ids=" ".join,
)
def test_any_value_of_any_key_is_accepted_or_refused_in_one_line(options):
    base = resolved(compose(*options))
    for path in _leaves((), base):
        for value in ABSURD:
            changed = copy.deepcopy(base)
            functools.reduce(dict.__getitem__, path[:-1], changed)[path[-1]] = value
            try:
                check_values(changed)
            except LampQError as error:
                assert "\n" not in str(error), path
            else:
                assert value in (None, True, -1, 1.5) or value in ([], {"a": 1}), path  # what some key has a use for


def test_operands_that_are_chosen_have_a_bit_set_around_their_own_target():
    asked = settings("allocator=output_fisher", "weight_bits=4", "activation_bits=8", "allocate=layers_and_operands")
    assert asked.budget.candidates == (2, 3, 4, 5, 6) and asked.budget.of_inputs == (6, 7, 8, 9, 10)
    assert settings("weight_bits=4", "activation_bits=8").budget.input_candidates == ()
    equal = settings("allocator=uniform", "allocate=all").budget.unbound()
    assert equal == settings("allocator=uniform").budget, "equal bits are the same, whatever others choose"
