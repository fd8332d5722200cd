"""Drawn shapes in the file format of M-BEIR, to try a retriever of texts and pictures without a download.

    python experiments/mbeir_shapes.py DIR

Writes five tasks with a train and a test split. From a text to its picture (`shapes_task0`); from a picture to its
caption (`shapes_task3`), to the name of its color (`colors_task3`) or to the name of its pattern (`patterns_task3`);
and from a picture with the name of a color to the same pattern in that color (`recolor_task7`). The three tasks that
start from a picture have the same queries, so only the instruction tells what is sought. There are 36 combinations of
pattern and color, on rectangles that differ in place, size, brightness and noise, in pictures of 16x16 pixels. Of each
combination both pools of pictures have a drawing of their own, and the one of the other pool is right as well.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.data.images import encode_png

SIDE = 16
PATTERNS = ("plain", "rows", "columns", "checks", "dots", "slants")
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 70, 220),
    "yellow": (235, 215, 60),
    "white": (245, 245, 245),
    "purple": (170, 50, 190),
}
GROUND = (25, 25, 25)
COMBINATIONS = list(itertools.product(PATTERNS, COLORS))
# Name of the task, number of its data set, modalities, wordings.
TASKS = {
    "shapes_task0": (0, "text", "image", ("Find this picture", "Which picture shows this", "Show me", "Draw it")),
    "shapes_task3": (0, "image", "text", ("Describe this", "What is shown here", "Find a caption", "Say what it is")),
    "colors_task3": (1, "image", "text", ("Name the color", "Which color is it", "What color", "Tell its color")),
    "patterns_task3": (
        2,
        "image",
        "text",
        ("Name the pattern", "Which pattern is it", "What pattern", "Tell its pattern"),
    ),
    "recolor_task7": (3, "image,text", "image", ("Change the color", "The same in this color", "Color it", "Recolor")),
}


def main(folder: str, *, queries: int = 960, tests: int = 120, seed: int = 0) -> Path:
    """Writes the folder and returns its path.

    Args:
        folder: where to.
        queries, tests: training and test queries of each task.
        seed: of the pictures.
    """
    root = Path(folder)
    rows = ["query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\tprompt_3\tprompt_4"]
    for name, (number, query, sought, wordings) in TASKS.items():
        rows.append("\t".join((query, sought, name.split("_")[0], str(number), *wordings)))
    write_lines(root / "instructions" / "query_instructions.tsv", rows)
    for split, count in (("train", queries), ("test", tests)):
        Split(root, split, np.random.default_rng([seed, split == "test"])).write(count)
    return root


class Split:
    """One split on its way to disk.

    Args:
        root: the folder.
        split: "train" or "test".
        draw: random numbers.
    """

    def __init__(self, root: Path, split: str, draw: np.random.Generator) -> None:
        self.root, self.split, self.draw = root, split, draw
        self.pictures = 0

    def write(self, count: int) -> None:
        """Pools, then `count` queries of each task."""
        size = len(COMBINATIONS)
        drawings = {number: [self.shown(number, row) for row in range(size)] for number in (0, 3)}
        pools = {
            "shapes_task0": drawings[0],
            "shapes_task3": [worded(0, size + row, caption(*c)) for row, c in enumerate(COMBINATIONS)],
            "colors_task3": [worded(1, row, color) for row, color in enumerate(COLORS)],
            "patterns_task3": [worded(2, row, pattern) for row, pattern in enumerate(PATTERNS)],
            "recolor_task7": drawings[3],
        }
        for name, entries in pools.items():
            self.pool(f"local/mbeir_{name}", entries)
        self.pool("global/mbeir_union", [entry for entries in pools.values() for entry in entries])
        asked: dict[str, list[dict[str, Any]]] = {name: [] for name in TASKS}
        for row in self.draw.integers(0, size, count).tolist():
            pattern, color = COMBINATIONS[row]
            path = self.picture(row)
            wanted = str(self.draw.choice([name for name in COLORS if name != color]))
            target = COMBINATIONS.index((pattern, wanted))
            asked["shapes_task0"].append(query(caption(pattern, color), None, [f"0:{row}", f"3:{row}"]))
            asked["shapes_task3"].append(query(None, path, [f"0:{size + row}"]))
            asked["colors_task3"].append(query(None, path, [f"1:{list(COLORS).index(color)}"]))
            asked["patterns_task3"].append(query(None, path, [f"2:{PATTERNS.index(pattern)}"]))
            asked["recolor_task7"].append(query(wanted, path, [f"3:{target}", f"0:{target}"]))
        for name, entries in asked.items():
            self.task(name, entries)

    def task(self, name: str, entries: list[dict[str, Any]]) -> None:
        """The files of a task: queries and judgments."""
        number, modality, _, _ = TASKS[name]
        # The first data set has two tasks, and ids are of the data set.
        first = 100_000 * (name == "shapes_task3") + 200_000 * (self.split == "test")
        entries = [
            {"qid": f"{number}:{first + place}", "query_modality": modality} | entry
            for place, entry in enumerate(entries)
        ]
        write_json(self.root / "query" / self.split / f"mbeir_{name}_{self.split}.jsonl", entries)
        lines = [f"{entry['qid']} 0 {did} 1 {name[-1]}" for entry in entries for did in entry["pos_cand_list"]]
        write_lines(self.root / "qrels" / self.split / f"mbeir_{name}_{self.split}_qrels.txt", lines)

    def pool(self, name: str, entries: list[dict[str, Any]]) -> None:
        """One pool."""
        write_json(self.root / "cand_pool" / f"{name}_{self.split}_cand_pool.jsonl", entries)

    def shown(self, number: int, row: int) -> dict[str, Any]:
        """A drawing in a pool."""
        return {"did": f"{number}:{row}", "txt": None, "img_path": self.picture(row), "modality": "image"}

    def picture(self, row: int) -> str:
        """Draws a combination and returns the path."""
        path = Path("mbeir_images") / self.split / f"{self.pictures:05d}.png"
        self.pictures += 1
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(encode_png(drawn(*COMBINATIONS[row], self.draw)))
        return path.as_posix()


def query(text: str | None, path: str | None, positives: list[str]) -> dict[str, Any]:
    """What queries of all tasks have; the first right answer is of the query's own data set."""
    return {"query_txt": text, "query_img_path": path, "pos_cand_list": positives, "neg_cand_list": []}


def worded(number: int, row: int, text: str) -> dict[str, Any]:
    """A text in a pool."""
    return {"did": f"{number}:{row}", "txt": text, "img_path": None, "modality": "text"}


def caption(pattern: str, color: str) -> str:
    """The text of a combination."""
    return f"{color} {pattern}"


def drawn(pattern: str, color: str, draw: np.random.Generator) -> np.ndarray:
    """uint8[16, 16, 3] of a combination, on another rectangle each time."""
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = {
        "plain": np.ones((SIDE, SIDE), bool),
        "rows": y % 4 < 2,
        "columns": x % 4 < 2,
        "checks": (y % 4 < 2) != (x % 4 < 2),
        "dots": (y % 4 < 2) & (x % 4 < 2),
        "slants": (y + x) % 4 < 2,
    }[pattern]
    (top, left), (height, width) = draw.integers(0, 5, 2), draw.integers(10, 13, 2)
    inside = inside & (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    colors = np.where(inside[..., None], draw.uniform(0.8, 1.0) * np.array(COLORS[color]), GROUND)
    return np.clip(colors + draw.normal(0, 8, colors.shape), 0, 255).astype(np.uint8)


def write_json(path: Path, entries: list[dict[str, Any]]) -> None:
    """JSON Lines."""
    write_lines(path, [json.dumps(entry) for entry in entries])


def write_lines(path: Path, lines: list[str]) -> None:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--queries", type=int, default=960, help="training queries of each task")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(main(options.folder, queries=options.queries, seed=options.seed))
