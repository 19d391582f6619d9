"""Tables of the records in a folder, and Markdown read back."""

from results.record import read_records
from results.table import build_tables


def tables_of(tmp_path, **options):
    return build_tables(read_records(tmp_path / "records"), replicates=options.pop("replicates", 200), **options)


def lines_of(text):
    """Markdown table rows as name -> cells."""
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {row[0].strip().removesuffix(", seed 0"): row[1:] for row in rows}
