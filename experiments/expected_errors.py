"""Tables 2 and 9, computed, beside what the paper prints: where it contradicts itself, the table says so."""

from lampq.report.table import NOTHING, Table
from lampq.sensitivity.expected_error import error_moments, expected_error, expected_ratios

from . import paper
from .frame import tidy


def follows(bits: int, printed_ratio: str) -> bool:
    """Whether a printed ratio rho_B follows from the digits that the paper's Table 9 prints for B - 1 and B bits."""
    above, below = _error_range(bits - 1), _error_range(bits)
    half = 0.5 * 10 ** -len(printed_ratio.partition(".")[2])
    return above[0] / below[1] <= float(printed_ratio) + half and float(printed_ratio) - half <= above[1] / below[0]


def _error_range(bits: int) -> tuple[float, float]:
    """Least and largest k(B) that Table 9's printed digits allow."""
    row = paper.table(9)[bits - 1]
    ends = [_rounded_from(row["E[X dX]"]), _rounded_from(row["E[dX^2]"])]
    low, high = ([end[side] for end in ends] for side in (0, 1))
    return tuple(2 * square + square**2 + 2 * product**2 + 4 * product * square for product, square in (low, high))


def _rounded_from(printed: str) -> tuple[float, float]:
    """The numbers that round to a printed one."""
    mantissa, _, exponent = printed.partition("E")
    half = 0.5 * 10 ** (int(exponent) - len(mantissa.partition(".")[2]))
    return float(printed) - half, float(printed) + half


def table2() -> Table:
    """Relative expected errors and their ratios."""
    ratios, first = expected_ratios(8), expected_error(1)
    body, records = [], []
    for row in paper.table(2):
        bits = int(row["bits"])
        relative, ratio = expected_error(bits) / first, ratios.get(bits)
        printed_relative, printed_ratio = row["L_recon relative to 1 bit"], row["ratio L(B-1)/L(B)"]
        relative_agrees = _same_digits(relative, printed_relative)
        ratio_agrees = ratio is None or follows(bits, printed_ratio)
        shown = NOTHING if ratio is None else f"{ratio:.3f}"
        agrees = "yes" if ratio_agrees else "no"
        body.append([str(bits), f"{relative:.3E}", printed_relative, shown, printed_ratio or NOTHING, agrees])
        records.append(
            {
                "bits": bits,
                "relative_error": relative,
                "paper_relative_error": printed_relative,
                "relative_error_agrees": relative_agrees,
                "ratio": ratio,
                "paper_ratio": printed_ratio,
                "ratio_agrees": ratio_agrees,
            }
        )
    wrong = [str(r["bits"]) for r in records if not r["ratio_agrees"]]
    remarks = [
        "Computed in closed form from Lemma 3, values beyond three standard deviations left out of the integrals, as "
        "in the paper's Table 9 (`lampq/sensitivity/expected_error.py`).",
        f"The paper's ratios at {_listed(wrong)} bits do not follow from its own Table 9, those at the others do, "
        "within its rounding. Its first column inherits the difference. LampQ uses the computed ratios; "
        "`allocator.gain_ratios=paper` takes the printed ones.",
    ]
    header = ["bits B", "relative error", "paper", "ratio ρ_B", "paper", "follows from Table 9"]
    title = "Table 2: expected reconstruction error relative to 1 bit, and ρ_B = E L(B−1) / E L(B)"
    return Table("table2", title, header, body, tidy(records), remarks=remarks)


def table9() -> Table:
    """Expected values of a standard normal and its quantization error."""
    body, records = [], []
    for row in paper.table(9):
        bits = int(row["bits"])
        product, square = error_moments(bits)
        printed = row["E[X dX]"], row["E[dX^2]"]
        same = [_same_digits(c, p) for c, p in zip((product, square), printed, strict=True)]
        agrees = "yes" if all(same) else f"no: {'E[X ΔX]' if not same[0] else 'E[ΔX²]'} in its last digit"
        body.append([str(bits), "1", f"{product:.4E}", printed[0], f"{square:.4E}", printed[1], agrees])
        records.append(
            {"bits": bits, "product": product, "paper_product": printed[0], "product_agrees": same[0]}
            | {"square": square, "paper_square": printed[1], "square_agrees": same[1]}
        )
    remarks = [
        "Agrees with the paper's digits only where values beyond three standard deviations are dropped from the "
        "integrals while E[X²] stays 1, which is how the paper must have computed them although it says that they are "
        "clipped. Where the last printed digit differs, the table says so."
    ]
    header = ["bits B", "E[X²]", "E[X ΔX]", "paper", "E[ΔX²]", "paper", "agrees"]
    title = "Table 9: expected values for a standard normal on the min-max grid over ±3 standard deviations"
    return Table("table9", title, header, body, tidy(records), remarks=remarks)


def _same_digits(computed: float, printed: str) -> bool:
    digits = len(printed.partition("E")[0].partition(".")[2])
    return f"{computed:.{digits}E}" == f"{float(printed):.{digits}E}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
