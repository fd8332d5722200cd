"""Which methods a run compares."""

import inspect
import re
from typing import Any

import pytest

from erel_jax.adapters import METHODS
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.methods import RECOMMENDATION, RETRIEVAL, chosen_methods
from erel_jax.benchmark.recipes import RECIPES
from erel_jax.errors import ConfigError


def config(methods, task: Any = "retrieval"):
    return BenchConfig(task=task, data=None if task == "retrieval" else "x.tsv", methods=methods)


def test_default_is_fixed_and_registered():
    """A new method does not lengthen the default run."""
    default = ["frozen", "linear_probe", "full", "bitfit", "lora", "houlsby", "iisan", "iisan_cached"]
    assert chosen_methods(config(None)) == default == list(RETRIEVAL)
    assert chosen_methods(config(None, "recommendation")) == [*default, "versa_cached", "blend"] == list(RECOMMENDATION)
    assert set(default) < set(METHODS)


@pytest.mark.parametrize("task", ["retrieval", "recommendation"])
def test_every_registered_method_can_be_named(task):
    assert chosen_methods(config(",".join(METHODS), task)) == list(METHODS)


def test_help_names_the_methods():
    text = inspect.getsource(BenchConfig)
    text = text[text.index("methods: str | None") : text.index("seeds: int")]
    named = set(re.findall(r"\w+", text))
    # Side networks beyond the default run are described where their data is.
    assert {name for name, method in METHODS.items() if method.head != "side"} | set(RECOMMENDATION) <= named
    assert set(RECIPES) <= named


def test_recipes_are_for_retrieval_and_never_share_a_name_with_a_method():
    assert chosen_methods(config(",".join(RECIPES))) == list(RECIPES)
    assert not set(RECIPES) & set(METHODS)
    with pytest.raises(ConfigError, match="'jest', which recommendation does not know"):
        chosen_methods(config("jest", "recommendation"))


def test_order_is_kept_and_repeats_are_dropped():
    assert chosen_methods(config(" lora, frozen,,lora ")) == ["lora", "frozen"]


@pytest.mark.parametrize("names", ["", " , "])
def test_no_name_is_refused(names):
    with pytest.raises(ConfigError, match=r"no name. Known: frozen"):
        chosen_methods(config(names))


def test_typos_are_answered_with_the_nearest_of_the_task():
    with pytest.raises(ConfigError, match=r"'iisan_cache'.*retrieval.*Did you mean 'iisan_cached'"):
        chosen_methods(config("lora,iisan_cache"))
    with pytest.raises(ConfigError, match="'blend', which retrieval does not know"):
        chosen_methods(config("blend"))
    assert chosen_methods(config("blend", "recommendation")) == ["blend"]
