"""Tables of pictures and texts: formats, headers, and errors with file and line."""

import pytest

from erel_jax.data.pair_tables import find_table, normalize_text, read_pairs
from erel_jax.errors import DataError


def rows(path) -> list[tuple[int, str, str]]:
    return [(pair.line, pair.image, pair.text) for pair in read_pairs(path)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", "x.png\ta  cat\ny.png\t\n", [(1, "x.png", "a cat"), (2, "y.png", "")]),
        ("b.tsv", "caption\timage\na cat\tx.png\n\n", [(2, "x.png", "a cat")]),
        ("c.csv", 'file_name,extra,text\nx.png,1,"a, ""b"""\n', [(2, "x.png", 'a, "b"')]),
        ("d.csv", 'x.png,"two\nlines"\ny.png,z\n', [(2, "x.png", "two lines"), (3, "y.png", "z")]),
        (
            "e.jsonl",
            '{"image": "x.png", "text": "猫"}\n\n{"path": "y", "title": "t"}',
            [(1, "x.png", "猫"), (3, "y", "t")],
        ),
        ("f.CSV", "\ufeffx.png,a\r\ny.png,b\r\n", [(1, "x.png", "a"), (2, "y.png", "b")]),
        ("g.tsv", 'x.png\tsay "hi\ny.png\tb\n', [(1, "x.png", 'say "hi'), (2, "y.png", "b")]),
    ],
)
def test_formats(name: str, content: str, expected, tmp_path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert rows(find_table(tmp_path)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"x\ta\ny\tb\tc\n", r"a\.tsv, line 2: got 3 columns, expected 2 as in line 1"),
        ("b.csv", b"x,a\n\ny\n", r"b\.csv, line 3: got 1 columns, expected 2"),
        ("c.csv", b"x,a,1\ny,b,2\n", r"c\.csv, line 1: got 3 columns without a known header"),
        ("d.tsv", b"", r"d\.tsv: the file is empty"),
        ("e.tsv", b"image\ttext\n", r"e\.tsv: the table has a header but no rows"),
        ("f.tsv", b"x\ta\ny\t\xff\n", r"f\.tsv, line 2: not UTF-8"),
        ("g.csv", b'x,a\ny,"b\n', r"g\.csv, line \d: .*quotes"),
        ("h.jsonl", b'{"image": "x", "text": "a"}\n{"image": \n', r"h\.jsonl, line 2: not JSON"),
        ("i.jsonl", b"[1]\n", r"i\.jsonl, line 1: got list, expected a JSON object"),
        ("j.jsonl", b'{"image": 3, "text": "a"}\n', r"j\.jsonl, line 1: expected strings"),
        ("k.jsonl", b"[" * 200_000, r"k\.jsonl, line 1: not JSON"),
        ("l.tsv", b"x\ta\n \tb\n", r"l\.tsv, line 2: the image path is empty"),
    ],
)
def test_errors_name_file_and_line(name: str, content: bytes, message: str, tmp_path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_pairs(tmp_path / name)


def test_the_table_is_found_or_asked_for(tmp_path) -> None:
    with pytest.raises(DataError, match="absent: no such file"):
        find_table(tmp_path / "absent")
    with pytest.raises(DataError, match=r"exactly one table .* found none"):
        find_table(tmp_path)
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.tsv").touch()
    with pytest.raises(DataError, match=r"found a\.csv, b\.tsv"):
        find_table(tmp_path)
    (tmp_path / "c.xlsx").touch()
    with pytest.raises(DataError, match="unknown kind of table"):
        find_table(tmp_path / "c.xlsx")


def test_texts_are_made_comparable_and_storable() -> None:
    assert normalize_text(" a\t\n b\u3000c\0d ") == "a b c d"
    normalize_text("x\ud800y").encode("utf-8")
    assert normalize_text("\0 \n") == ""
    assert normalize_text("عربى 😀") == "عربى 😀"


def test_a_header_of_unknown_names_is_no_pair(tmp_path):
    (tmp_path / "a.csv").write_text("picture,words\nx.png,a\ny.JPG,b\n")
    with pytest.raises(DataError, match=r"a.csv, line 1: got columns picture, words.*image and text"):
        read_pairs(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("x,a\ny.JPG,b\nz,c\n")  # pictures need no suffix
    assert len(read_pairs(tmp_path / "b.csv")) == 3


def test_a_hidden_table_is_none(tmp_path):
    for name in ("._a.csv", ".b.tsv", "a.csv"):
        (tmp_path / name).write_text("x.png,a\n")
    assert find_table(tmp_path) == tmp_path / "a.csv"
