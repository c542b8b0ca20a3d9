"""Tables 2 and 9: where the paper's digits follow from each other and where not."""

import pytest

from experiments import expected_errors, paper
from experiments.expected_errors import follows, table2, table9
from experiments.frame import plain

WRONG_RATIOS = {2, 3, 7}


def test_the_printed_ratios_at_2_3_and_7_bits_do_not_follow_from_table_9():
    verdicts = {row[0]: row[-1] for row in table2().body}
    assert verdicts == {str(b): "no" if b in WRONG_RATIOS else "yes" for b in range(1, 9)}
    assert {r["bits"]: r["ratio_agrees"] for r in plain(table2().records)} == {
        b: b not in WRONG_RATIOS for b in range(1, 9)
    }
    assert any("at 2, 3 and 7 bits do not follow" in remark for remark in table2().remarks)


def test_our_ratios_follow_from_the_printed_table_9():
    for record in plain(table2().records)[1:7]:
        assert follows(record["bits"], f"{record['ratio']:.3f}"), record["bits"]


@pytest.mark.parametrize(("bits", "printed"), [(4, "4.7"), (5, "4.29"), (6, "4.13"), (8, "4.03")])
def test_a_changed_digit_does_not_follow(bits, printed):
    assert follows(bits, printed)
    digits = len(printed) - 2
    for step in (-2, 2):
        assert not follows(bits, f"{float(printed) + step * 10**-digits:.{digits}f}")


def test_a_changed_digit_of_table_9_is_noticed(monkeypatch):
    rows = paper.table(9)
    rows[4]["E[dX^2]"] = "3.213E-3"  # 5 bits, for 3.113E-3
    monkeypatch.setattr(expected_errors.paper, "table", lambda number: rows)
    assert not follows(5, "4.29") and not follows(6, "4.13")
    assert follows(4, "4.7") and follows(8, "4.03")


def test_relative_errors_of_the_paper_inherit_its_ratios():
    assert [r["bits"] for r in plain(table2().records) if r["relative_error_agrees"]] == [1]
    product = 1.0
    for record in plain(table2().records)[1:]:
        product *= float(record["paper_ratio"])
        assert 1 / product == pytest.approx(float(record["paper_relative_error"]), rel=4e-3)


def test_table_9_agrees_in_every_digit_but_one():
    table = table9()
    verdicts = {row[0]: row[-1] for row in table.body}
    assert [bits for bits, verdict in verdicts.items() if verdict != "yes"] == ["8"]
    assert verdicts["8"] == "no: E[X ΔX] in its last digit"
    last = plain(table.records)[-1]
    assert (last["product_agrees"], last["square_agrees"]) == (False, True)
    assert last["product"] == pytest.approx(6.1335e-7, abs=5e-12), "the paper: 6.134E-7"


def test_the_papers_column_is_what_it_prints():
    assert [row[2] for row in table2().body] == [row["L_recon relative to 1 bit"] for row in paper.table(2)]
    assert [row[3] for row in table9().body] == [row["E[X dX]"] for row in paper.table(9)]
    assert [row[5] for row in table9().body] == [row["E[dX^2]"] for row in paper.table(9)]
