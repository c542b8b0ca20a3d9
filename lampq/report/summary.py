"""The table that a run ends with: accuracy and cost of each method, with their uncertainty."""

from collections.abc import Callable

from rich.table import Table

from lampq.tasks.accuracies import ACCURACIES, accuracies_in

MISSING = "-"
COSTS = {
    *("average_weight_bits", "average_weight_bits_all", "average_activation_bits", "average_operand_bits"),
    *("packed_bytes", "full_precision_bytes", "bops"),
}


def summary_table(rows: list[dict]) -> Table:
    """One row a method; what a row does not have is shown as "-".

    Args:
        rows: each with `method` and any of: `top1` (or `box_ap` and `mask_ap`) and `top1_standard_error` (percent),
            `top1_difference` to full precision and its paired `top1_difference_standard_error` (points),
            `average_weight_bits`, `packed_bytes`, `seconds_total`.
    """
    table = Table(title="Results (simulated quantization)", title_justify="left")
    table.add_column("method", justify="left")
    shown = accuracies_in({name: None for row in rows for name in row}) or ["top1"]
    headers = [header for name in shown for header in (f"{ACCURACIES[name]} (%)", "difference to\nfull precision")]
    for header in (*headers, "average\nweight bits", "packed\nsize", "time"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.get("method", MISSING)),
            *(
                words
                for name in shown
                for words in (_with_error(row, name, "{:.2f}"), _with_error(row, f"{name}_difference", "{:+.2f}"))
            ),
            _shown(row.get("average_weight_bits"), "{:.2f}".format),
            _shown(row.get("packed_bytes"), size),
            _shown(row.get("seconds_total"), duration),
        )
    return table


def cost_lines(costs: dict | None) -> list[str]:
    """What a plan costs, in two lines: average bits of each kind; bytes and bit operations.

    Args:
        costs: as `lampq.plan.budget.realised_costs` and `lampq.workbench.Workbench.sizes` give them, among others;
            nothing is said where one is missing.
    """
    if costs is None or not costs.keys() >= COSTS:
        return []
    return [
        f"{costs['average_weight_bits']:.2f} weight bits on average (all weights "
        f"{costs['average_weight_bits_all']:.2f}), inputs {costs['average_activation_bits']:.2f}, attention "
        f"operands {costs['average_operand_bits']:.2f}",
        f"packed size {size(costs['packed_bytes'])} (computed) of {size(costs['full_precision_bytes'])}; "
        f"{costs['bops'] / 1e9:.3g} billion bit operations an image",
    ]


def size(count: float) -> str:
    """Bytes in kB or MB (powers of 1000)."""
    if count < 1000:
        return f"{count:.0f} B"
    return f"{count / 1e3:.1f} kB" if count < 999_950 else f"{count / 1e6:.2f} MB"


def duration(seconds: float) -> str:
    """Seconds as seconds, minutes or hours."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60:02d} min"


def _with_error(row: dict, name: str, form: str) -> str:
    error = row.get(f"{name}_standard_error")
    words = _shown(row.get(name), form.format)
    return words if words == MISSING or error is None else f"{words} ± {error:.2f}"


def _shown(value: float | None, form: Callable[[float], str]) -> str:
    return MISSING if value is None or value != value else form(value)  # NaN is missing, too
