"""The exception family: exit codes and the nearest-name hint."""

import pytest

from erel_jax import errors


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ErelError", 1),
        ("ConfigError", 2),
        ("DataError", 3),
        ("CheckpointError", 4),
        ("CorruptArtifactError", 4),
        ("NonFiniteError", 5),
        ("PreemptedError", 75),
    ],
)
def test_exit_codes_are_the_documented_ones(name, code):
    error = getattr(errors, name)("text")
    assert error.exit_code == code
    assert isinstance(error, errors.ErelError)


def test_bad_arguments_are_value_errors_too():
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.DataError, ValueError)


def test_suggest_names_the_nearest_and_lists_all():
    text = errors.suggest("bitfti", ["frozen", "bitfit", "lora"])
    assert text == "Did you mean 'bitfit'? Known: frozen, bitfit, lora."


def test_suggest_ignores_case():
    assert errors.suggest("LORA", ["frozen", "LoRA"]).startswith("Did you mean 'LoRA'?")


def test_suggest_does_not_guess_wildly():
    assert errors.suggest("zzz", ["frozen", "lora"]) == "Known: frozen, lora."


def test_suggest_with_nothing_known():
    assert errors.suggest("x", []) == ""
