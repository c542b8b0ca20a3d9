"""What a measurement says when it ends."""

from rich.console import Console

from lampq.report.console import measurement_table


def test_numbers_stand_with_their_errors_and_what_is_missing_is_a_dash():
    rows = [{"unit": "none", "top1": 90.0}]
    rows += [{"unit": "layers", "type": "fc1", "top1": 80.0, "top1_drop": 10.0, "top1_drop_standard_error": 1.25}]
    console = Console(width=80)
    with console.capture() as shown:
        console.print(measurement_table(rows))
    assert "10.000 ± 1.250" in shown.get() and "top1 drop" in shown.get() and "-" in shown.get()
