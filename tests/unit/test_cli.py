"""The command line's own words: a mistake ends with the help of the command it was made in, and the help teaches."""

import pytest

from erel_jax import cli
from erel_jax.catalogs.config import SearchConfig

COMMANDS = ("bench", "embed", "index", "search", "doctor")


@pytest.fixture
def said(monkeypatch, capsys):
    """Runs `erel`; returns the exit code and what was printed, in one line."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        try:
            code = cli.main(list(arguments))
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        return code, " ".join((out + err).replace("│", " ").split())

    return run


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("bench", "--epohcs", "3"), "erel bench --help"),
        (("bench", "--seeds", "two"), "erel bench --help"),
        (("bench", "--seeds", "0"), "erel bench --help"),
        (("embed",), "erel embed --help"),
        (("embed", "--model", "m", "--data", "d", "--out", "o", "--batch", "0"), "erel embed --help"),
        (("embed", "--model", "m", "--data", "d", "--out", "o", "--precision", "int9"), "erel embed --help"),
        (("index", "--vectors", "v", "--out", "o", "--recall", "x"), "erel index --help"),
        (("search", "--index", "i"), "erel search --help"),
        (("search", "--index", "i", "-k", "ten"), "erel search --help"),
        (("doctor", "--x"), "erel doctor --help"),
        (("serach", "--index", "i"), "erel --help"),
        (("--index", "i"), "erel --help"),
        ((), "erel --help"),
    ],
)
def test_a_mistake_ends_with_the_help_of_its_own_command(said, arguments, hint):
    code, words = said(*arguments)
    assert code == 2 and hint in words[-40:]
    assert hint == "erel --help" or "erel --help" not in words
    assert "Error parsing SearchConfig" not in words and "Error parsing BenchConfig" not in words


def test_a_mistyped_command_is_answered_with_the_nearest_one(said):
    assert "unknown command 'serach'. Did you mean 'search'?" in said("serach", "--index", "i")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_no_default_that_is_none(said, command):
    code, words = said(command, "--help")
    assert code == 0 and "None" not in words


def test_help_is_not_broken_where_the_source_breaks_its_lines(said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    words = said("search", "--help")[1]
    assert "Default: what the model's folder says, not what the catalog was embedded with." in words
    assert words.count("(default: ") == 2  # --k and --precision


def test_the_word_none_can_be_searched_for(monkeypatch):
    given = []
    monkeypatch.setattr(cli, "search", lambda config: given.append(config) or 0)
    assert cli.main(["search", "--index", "i", "--text", "None", "-k", "3"]) == 0
    assert isinstance(given[0], SearchConfig) and given[0].text == "None" and given[0].k == 3


def test_doctor_says_what_its_states_mean(said):
    words = said("doctor", "--help")[1]
    assert "code 1 if something is broken" in words and "warning" in words
