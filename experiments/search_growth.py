"""How memory and time of a search grow with the corpus, from 1 M to 10 M codes, in memory and from disk.

    python experiments/search_growth.py            # 0.4 GB of files; --small is a copy for tests
    python experiments/search_growth.py --rows 1000000,2000000 --code int8
    python experiments/search_growth.py --folder built --build && python experiments/search_growth.py --folder built

Drawn unit vectors of width 64 are encoded block by block straight into an index folder (`write_index`) and searched in
a fresh process each: `resident` reads the codes into memory, `disk` leaves them mapped. One JSON line per size, place
and batch: peak memory of the process (`peak_bytes`, and `grown_bytes`, what it rose by from before the index was
opened), and the median seconds per query of batches of 64 and of 1. The last lines, `growth_…`, divide the figures of
each size by those of the smallest: `per_row` of 1 or less says that they grow no faster than the corpus does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax.profiling.memory import peak_memory
from erel_jax.retrieval import load_index, search_index, write_index
from erel_jax.retrieval.codes import Int8PerVector, eden

WIDTH, BLOCK, TOP = 64, 65536, 10
CODES = {"eden1": lambda: eden(WIDTH, 1), "int8": lambda: Int8PerVector(WIDTH)}
FULL, SMALL = (1_000_000, 2_000_000, 5_000_000, 10_000_000), (20_000, 40_000)
PLACES = ("resident", "disk")


def main(
    rows: tuple[int, ...] = FULL,
    *,
    code: str = "eden1",
    repeats: int = 3,
    folder: str | None = None,
    build_alone: bool = False,
) -> list[dict[str, Any]]:
    """Builds and measures every size and returns the printed rows; indexes in a folder that is given stay there."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in rows:
            index = Path(folder or scratch) / f"{code}-{count}"
            if not index.exists():
                begun = time.perf_counter()
                write_index(index, np.arange(count) + 2**40, drawn(count), code=CODES[code](), sample=0)
                print(f"  {index.name} built in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
            size = sum(path.stat().st_size for path in index.iterdir())
            for place in () if build_alone else PLACES:
                found += _measured_apart(index, place, repeats, code=code, rows=count, file_bytes=size)
    if build_alone:
        return []
    for place in PLACES:
        for batch in (64, 1):
            found.append(_growth([row for row in found if (row.get("place"), row.get("batch")) == (place, batch)]))
    return found


def drawn(count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Blocks of float32[n, 64] unit vectors, N rows in all."""
    draw = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        block = draw.standard_normal((min(BLOCK, count - start), WIDTH), np.float32)
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def search(folder: str, place: str, repeats: int) -> list[dict[str, Any]]:
    """Opens an index and searches it, in this process."""
    queries = next(drawn(64, seed=1))
    before = peak_memory().bytes or 0
    index = load_index(folder, mapped=place == "disk", verify="size")
    rows = []
    for batch in (64, 1):
        search_index(index, queries[:batch], TOP)
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            search_index(index, queries[:batch], TOP)
            times.append(time.perf_counter() - begun)
        rows.append({"batch": batch, "seconds_per_query": float(np.median(times)) / batch})
    peak = peak_memory().bytes or 0
    return [row | {"peak_bytes": peak, "grown_bytes": peak - before} for row in rows]


def _measured_apart(index: Path, place: str, repeats: int, **about: Any) -> list[dict[str, Any]]:
    """A fresh process, so that the peak is of one index alone."""
    command = [sys.executable, __file__, "--index", str(index), "--place", place, "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    name = f"search_{place}_{about['rows']}"
    found = [{"name": name, "place": place} | about | row for row in json.loads(done.stdout.splitlines()[-1])]
    for row in found:
        print(json.dumps(row), flush=True)
    return found


def _growth(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first = rows[0]
    larger = [row["rows"] / first["rows"] for row in rows]
    per_row = {
        figure: [round(row[figure] / first[figure] / times, 3) for row, times in zip(rows, larger, strict=True)]
        for figure in ("seconds_per_query", "peak_bytes")
    }
    name = f"growth_{first['place']}_b{first['batch']}"
    result = {"name": name, "rows": [row["rows"] for row in rows], "per_row": per_row}
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rows", help="sizes with commas between them")
    parser.add_argument("--code", choices=sorted(CODES), default="eden1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where indexes are made, kept and used again")
    parser.add_argument("--build", action="store_true", help="only make the indexes")
    parser.add_argument("--index", help=argparse.SUPPRESS)
    parser.add_argument("--place", choices=PLACES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.index:
        print(json.dumps(search(options.index, options.place, options.repeats)))
    else:
        sizes = tuple(map(int, options.rows.split(","))) if options.rows else SMALL if options.small else FULL
        settings = {"folder": options.folder, "build_alone": options.build}
        main(sizes, code=options.code, repeats=options.repeats, **settings)
