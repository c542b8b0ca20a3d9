"""A results folder as experiments leave it, written without running any."""

import base64
import json
import math
import statistics
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from lampq.allocation.stored_scores import stored_scores
from lampq.launch.cells import DONE, Cell
from lampq.plan.bit_plan import BitPlan
from lampq.runs.finished_run import seal
from lampq.storage.atomic_write import write_rows
from lampq.storage.fingerprint import fingerprint
from tests.report.plans import example_plan

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
"""A PNG of one pixel."""

PUBLISHED_SEARCH = {"candidates": 128, "rounds": 3, "steps": 6}


class ResultsFolder:
    """Writes cells and runs under a folder.

    Attributes:
        path: the results folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs = 0

    def cell(self, experiment: str, overrides: str, state: str = DONE, run: str | None = None, **fields) -> Cell:
        """A cell of an experiment.

        Args:
            overrides: as on the command line, with spaces between them.
            run: fingerprint of the run that it led to.
        """
        cell = Cell.of(experiment, overrides.split())
        told = {
            "command": f"run.py experiment={experiment}",
            "host": "laboratory 4711",
            "started": "2026-01-02T03:04:05",
        }
        cell = replace(cell, state=state, fingerprints=[run] if run else [], **{**told, **fields})
        cell.write(self.path)
        return cell

    def measured(self, experiment: str, overrides: str, **changes) -> Path:
        """A finished cell with a run of its own: the run's folder. Changes are those of `run`."""
        asked = dict(o.split("=") for o in overrides.split())
        bits = {"weight_bits": asked.get("weight_bits", asked.get("bits", 3))}
        bits["activation_bits"] = asked.get("activation_bits", bits["weight_bits"])
        given = {"model": asked.get("model"), "seed": int(asked.get("seed", 0))}
        given["allocator"] = "uniform" if asked.get("method") == "adalog" else "lampq"
        folder = self.run(**{**given, **{k: float(v) for k, v in bits.items()}, **changes})
        self.cell(experiment, overrides, run=folder.name)
        return folder

    def run(
        self,
        outcomes: tuple[int, int, int, int] | None = (40, 40, 4, 16),
        plan: BitPlan | None = None,
        search: dict | None = None,
        where: dict | None = None,
        validation: str = "all",
        sample_outcomes: tuple[int, ...] | None = None,
        image_sets: dict | None = None,
        budget: dict | None = None,
        **metrics,
    ) -> Path:
        """The folder of a finished run.

        Args:
            outcomes: how many validation images are right before and after quantization, only before, only after, and
                never; None is a run that was not validated.
            plan: its plan.
            search: settings of the base quantizer.
            where: entries of environment.json.
            validation: identity of the validation images.
            sample_outcomes: which images of D are right, where it is kept.
            image_sets: further identities of images.
            budget: entries of the budget's identity.
            metrics: entries of metrics.json in place of usual ones.
        """
        self._runs += 1
        identity = {
            "base_quantizer": ["adalog", 2, search or PUBLISHED_SEARCH],
            "budget": budget or {},
            # Every run drew its own.
            "images": {"validation": validation, "training": self._runs, **(image_sets or {})},
        }
        name = fingerprint(identity)
        folder = self.path / "runs" / name
        folder.mkdir(parents=True)
        usual = {
            "fingerprint": name,
            "model": "deit_tiny",
            "dataset": "imagenet",
            "base_quantizer": "adalog",
            "allocator": "lampq",
            "weight_bits": 3.0,
            "activation_bits": 3.0,
            "average_weight_bits": 2.97,
            "seed": 0,
            "sample_images": 1024,
            "sample_top1": 50.0,
            "sample_loss": 2.0,
            "evaluations": 30,
            "seconds_calibrate": 100.0,
            "seconds_allocate": 50.0,
            "seconds_total": 170.0,
            "seconds_cold": 250.0,
            "packed_bytes": 2_500_000,
        }
        if outcomes is not None:
            usual |= self._validated(folder, *outcomes)
        environment = {
            "command": f"run.py number={self._runs} paths.results=/home/someone/results",
            "started": f"2026-01-02T03:04:{self._runs % 60:02d}+00:00",
            "commit": "abcdef123456",
            "device": "cpu",
            "processor": "an abacus",
            "threads": 2,
        }
        for file, content in (
            ("metrics.json", usual | metrics),
            ("environment.json", environment | (where or {})),
            ("identity.json", identity),
            ("images.json", {"sample": ["train/a.png"]}),
        ):
            (folder / file).write_text(json.dumps(content))
        if sample_outcomes is not None:
            write_rows(folder / "sample_outcomes.csv", [{"image": i, "top1": r} for i, r in enumerate(sample_outcomes)])
        (folder / "config.yaml").write_text("paths:\n  results: /home/someone/results\n")
        (plan or searched_plan()).write(folder / "plan.json")
        (folder / "bit_allocation.png").write_bytes(PIXEL)
        seal(folder)
        return folder

    def sensitivity(self, experiment: str, overrides: str, rows: list[dict], **metrics) -> Path:
        """A finished cell whose run measured single components."""
        run = self.measured(experiment, overrides, outcomes=None, **metrics)
        (run / "plan.json").unlink()
        (run / "bit_allocation.png").unlink()
        write_rows(run / "sensitivity.csv", rows)
        seal(run)
        return run

    def _validated(self, folder: Path, kept: int, lost: int, gained: int, never: int) -> dict:
        """Write outcomes.csv; the metrics that follow from it."""
        before = [1] * (kept + lost) + [0] * (gained + never)
        after = [1] * kept + [0] * lost + [1] * gained + [0] * never
        rows = [
            {"image": i, "full_precision_top1": b, "top1": a}
            for i, (b, a) in enumerate(zip(before, after, strict=True))
        ]
        write_rows(folder / "outcomes.csv", rows)
        differences = [a - b for a, b in zip(after, before, strict=True)]
        metrics = {"images": len(before), "full_validation_images": 50_000}
        for name, values in (("top1_full_precision", before), ("top1", after), ("top1_difference", differences)):
            metrics[name] = 100 * statistics.fmean(values)
            metrics[f"{name}_standard_error"] = 100 * statistics.stdev(values) / math.sqrt(len(values))
        return metrics


def searched_plan(blocks: int = 2, **settings) -> BitPlan:
    """A plan as LampQ's search hands it over: with Fisher traces and scores.

    Args:
        settings: of the allocator, as max_evaluations.
    """
    plan = example_plan(blocks)
    traces = {site.name: 10.0 + place for place, site in enumerate(plan.sites) if site.allocated}
    scored = plan.with_scores({name: 3 * trace for name, trace in traces.items()})
    origin = {"allocator": "lampq", "settings": {"max_evaluations": None, **settings}, "fisher_traces": traces}
    return replace(scored, origin=origin)


def scored_plan(blocks: int = 2, target: float = 3, gamma: float = 2.0, swaps: list[dict] | None = None) -> BitPlan:
    """A plan as LampQ leaves it, whole: the exact optimum of costs gamma^-B Omega, Omega falling from layer to layer.

    Args:
        swaps: history of an update, which is not applied to the bits.
    """
    layers = example_plan(blocks)
    omega = {s.name: 2.0 ** (5 - place) for place, s in enumerate(s for s in layers.sites if s.allocated)}
    budget = {"weight_bits": float(target), "activation_bits": float(target), "candidates": [2, 3, 4, 5]}
    budget |= {"activation_rule": "fixed", "fixed_site_bits": [3, 3], "operand_bits": "target"}
    origin = {"allocator": "lampq", "settings": {"gamma": gamma}, "fisher_traces": omega}
    plan = stored_scores(replace(layers, budget=budget, origin=origin).with_scores(omega)).solve(Fraction(str(target)))
    history = {} if swaps is None else {"swaps": swaps}
    return replace(plan, origin={**origin, "initial_bits": plan.layer_bits(), **history})


def components(
    units: dict[str, tuple[str, ...]], blocks: int = 2, base: float = 80.0, drop: float = 5.0, bits: int = 1
) -> list[dict]:
    """Rows of a measurement of single components; each costs `drop` points more than the one before.

    Args:
        units: types by unit, for example ``{"layers": ("qkv", "fc1")}``.
        base: top-1 without any component quantized.
    """
    rows: list[dict] = [{"unit": "none", "top1": base, "loss": 0.5}]
    for unit, types in units.items():
        for block in range(blocks):
            for name in types:
                lost = drop * len(rows)
                row = {"unit": unit, "top1": base - lost, "loss": 1.5, "type": name, "block": block, "bits": bits}
                row |= {"top1_drop": lost, "top1_drop_standard_error": 1.25}
                rows.append(row | {"loss_increase": 1.0, "loss_increase_standard_error": 0.25})
    return rows
