"""What stands where in a table."""

from lampq.report.table import Table


def rows_of(table: Table) -> dict[tuple[str, str], dict[str, str]]:
    """Cells by column, by the heading that a row stands under (empty for none) and its first cell."""
    found, heading = {}, ""
    for row in table.body:
        if len(row) == 1:
            (heading,) = row
        else:
            found["" if "full precision" in row[0] else heading, row[0]] = dict(zip(table.header, row, strict=True))
    return found
