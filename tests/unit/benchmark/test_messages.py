"""Lines between worker and runner."""

import json
import time

import pytest

from erel_jax.benchmark.messages import Messenger, parse


def test_what_is_sent_is_parsed(capsys):
    messenger = Messenger()
    messenger.note('two\nlines and "quotes"')
    messenger.progress("training", 0, 7)
    messenger.error("äö", 3)
    lines = capsys.readouterr().out.splitlines()
    assert [parse(line) for line in lines] == [
        {"note": 'two\nlines and "quotes"'},
        {"stage": "training", "done": 0, "total": 7},
        {"error": "äö", "exit_code": 3},
    ]


def test_progress_is_thinned_but_first_and_last_always_come(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    messenger = Messenger()
    for done in range(101):
        messenger.progress("encoding", done, 100)
        now[0] += 0.03
    sent = [json.loads(line)["done"] for line in capsys.readouterr().out.splitlines()]
    assert sent[0] == 0 and sent[-1] == 100
    assert set(range(0, 100, 4)) <= set(sent) and len(sent) == 26


@pytest.mark.parametrize(
    "line", ["", "\n", "I0000 compiling", "3", "null", "NaN", "[1]", '"note"', '{"note": ', "\x00"]
)
def test_what_libraries_print_becomes_an_empty_message(line):
    assert parse(line) == {}
