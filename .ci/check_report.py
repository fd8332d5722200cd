"""Check what `erel bench` wrote: three files, a valid line per method and seed, a page without outside references."""

import json
import re
import sys
from pathlib import Path

FIELDS = [
    "task",
    "data",
    "method",
    "kind",
    "seed",
    "metrics",
    "trainable_parameters",
    "total_parameters",
    "train_seconds",
    "train_step_seconds",
    "train_flops_per_step",
    "peak_bytes",
    "peak_bytes_source",
    "encode_items_per_second",
    "query_seconds_p50",
    "query_seconds_p99",
    "bytes_per_item",
    "energy_joules",
    "tpme",
    "pscp",
    "command",
    "environment",
]


def check_records(path: Path) -> int:
    """Return the number of records; raise when one lacks a field or has a metric outside 0..1."""
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for record in records:
        missing = [field for field in FIELDS if field not in record]
        if missing:
            raise ValueError(f"{path}: {record.get('method')} lacks {missing}")
        outside = {name: value for name, value in record["metrics"].items() if not 0 <= value <= 1}
        if outside or record["kind"] not in ("floor", "learned"):
            raise ValueError(f"{path}: {record['method']}: kind {record['kind']!r}, metrics outside 0..1: {outside}")
    kinds = {record["kind"] for record in records}
    if kinds != {"floor", "learned"}:
        raise ValueError(f"{path}: expected floors and learned methods, got {sorted(kinds)}")
    return len(records)


def check_page(path: Path) -> None:
    """Raise when the page loads anything from elsewhere or carries no picture."""
    text = path.read_text("utf-8")
    outside = re.findall(r"""<(?:img|script|link|iframe|source)[^>]*(?:src|href)=["'](?!data:|#)([^"']+)""", text)
    if outside:
        raise ValueError(f"{path} loads {outside[:3]}")
    if "<svg" not in text or "</html>" not in text:
        raise ValueError(f"{path} has no plot or is cut off")


def main() -> None:
    """Check the folder named on the command line."""
    out = Path(sys.argv[1])
    count = check_records(out / "records.jsonl")
    check_page(out / "report.html")
    if "|" not in (out / "report.md").read_text("utf-8"):
        raise ValueError(f"{out / 'report.md'} has no table")
    print(f"{out}: {count} records, report.html and report.md are in order")


if __name__ == "__main__":
    main()
