"""Copy chosen runs into the repository, with a table that has the paper's figures in columns of their own.

Roots of data are written as ${LAMPQ_DATA}; nothing of a machine's paths remains, and no image of a data set.
"""

import csv
import json
import os
import re
import shutil
from pathlib import Path

from experiments.paper import published_top1
from lampq.errors import LampQError

FILES = ("config.yaml", "environment.json", "identity.json", "images.json", "metrics.json", "plan.json")
FIGURES = ("bit_allocation.png",)
COLUMNS = (
    "method",
    "bits",
    "top1",
    "top1_standard_error",
    "top1_difference",
    "top1_difference_standard_error",
    "paper_top1",
    "paper_top1_difference",
    "images",
    "average_weight_bits",
    "average_activation_bits",
    "packed_bytes",
    "seconds_total",
    "seconds_cold",
    "device",
    "threads",
    "seed",
    "commit",
    "fingerprint",
    "command",
)


def publish(name: str, fingerprints: list[str], results: Path) -> Path:
    """Copy finished runs to ``results/NAME/`` and write ``table.csv`` and ``table.md`` there.

    Args:
        name: folder, for example ``deit_tiny``.
        fingerprints: runs under ``results/runs``, in the order of the table's rows; beginnings suffice.

    Raises:
        LampQError: no such run, or not finished.
    """
    target = results / name
    rows = []
    for prefix in fingerprints:
        source = _find(results / "runs", prefix)
        folder = target / source.name
        folder.mkdir(parents=True, exist_ok=True)
        for file in FILES:
            (folder / file).write_text(without_machine(_read(source / file)))
        for figure in FIGURES:
            shutil.copyfile(source / figure, folder / figure)
        rows.append(_row(folder))
    _write_table(target, rows)
    return target


def without_machine(text: str) -> str:
    """Replace the data root, the checkout and the home folder in a text; other absolute paths become their names."""
    roots = {os.environ.get("LAMPQ_DATA"): "${LAMPQ_DATA}", os.environ.get("LAMPQ_CACHE"): "${LAMPQ_CACHE}"}
    roots |= {str(Path.cwd()): ".", str(Path.home()): "~"}
    for root, name in roots.items():
        if root:
            for spelling in {root, os.path.relpath(root), os.path.realpath(root)} - {"."}:
                text = text.replace(spelling.rstrip("/") + "/", name + "/")
    return re.sub(r"(?<![\w.~}])/(?:[\w.+-]+/)+([\w.+-]+)", r"\1", text)


def _find(runs: Path, prefix: str) -> Path:
    found = sorted(runs.glob(f"{prefix}*/metrics.json"))
    if len(found) != 1:
        what = "no finished run" if not found else f"{len(found)} runs"
        raise LampQError(f"{prefix}: {what} under {runs} begins like this; give a fingerprint from results/runs.csv")
    return found[0].parent


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise LampQError(f"{path}: {error.strerror}; run it again with force=true") from error


def _row(folder: Path) -> dict:
    metrics = json.loads((folder / "metrics.json").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    key = (metrics["base_quantizer"], metrics["allocator"], metrics["weight_bits"])
    paper = published_top1(metrics["model"], *key)
    paper_full = published_top1(metrics["model"], "full_precision", "", 32)
    return {
        **{column: metrics.get(column, environment.get(column)) for column in COLUMNS},
        "method": f"{key[0]}, {key[1]}",
        "bits": f"W{metrics['weight_bits']:g}A{metrics['activation_bits']:g}",
        "paper_top1": paper,
        "paper_top1_difference": None if paper is None else round(paper - paper_full, 2),
        "full_precision": metrics["top1_full_precision"],
        "full_precision_error": metrics["top1_full_precision_standard_error"],
        "paper_full_precision": paper_full,
        "model": metrics["model"],
        "dataset": metrics["dataset"],
    }


def _write_table(target: Path, rows: list[dict]) -> None:
    with (target / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    first = rows[0]
    lines = [
        f"# {first['model']} on {first['dataset']}, {first['images']} validation images (simulated quantization)",
        "",
        f"Full precision: {first['full_precision']:.2f} ± {first['full_precision_error']:.2f} % top-1 on these images"
        + (
            f"; the paper prints {first['paper_full_precision']:.2f} % on the full set."
            if first["paper_full_precision"]
            else "."
        ),
        "The paper's accuracies are on the full 50,000 images: compare drops, not accuracies.",
        "",
        "| method | bits | top-1 % (± s.e.) | difference (± paired s.e.) | paper: top-1 % | paper: difference "
        "| average weight bits | packed MB | seconds | seconds, cold bank | run |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        paper, paper_drop = (
            ("–", "–")
            if row["paper_top1"] is None
            else (f"{row['paper_top1']:.2f}", f"{row['paper_top1_difference']:.2f}")
        )
        lines.append(
            f"| {row['method']} | {row['bits']} | {row['top1']:.2f} ± {row['top1_standard_error']:.2f} "
            f"| {row['top1_difference']:.2f} ± {row['top1_difference_standard_error']:.2f} | {paper} | {paper_drop} "
            f"| {row['average_weight_bits']:.4f} | {row['packed_bytes'] / 1e6:.2f} | {row['seconds_total']:.0f} "
            f"| {row['seconds_cold']:.0f} | `{row['fingerprint']}` |"
        )
    lines += ["", "Commands:", ""]
    lines += [
        f"- `{row['fingerprint']}`: `{row['command']}` (commit {row['commit']}, seed {row['seed']}, device "
        f"{row['device']}, {row['threads']} threads)"
        for row in rows
    ]
    (target / "table.md").write_text("\n".join(lines) + "\n")
