"""Which methods a run compares."""

from erel_jax.adapters import METHODS
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.recipes import RECIPES
from erel_jax.errors import ConfigError, suggest

RETRIEVAL = ("frozen", "linear_probe", "full", "bitfit", "lora", "houlsby", "iisan", "iisan_cached")
"""What runs when nothing is asked for: each way of adapting once. A default run has a budget of minutes; the other
registered methods run when `--methods` names them."""

RECOMMENDATION = (*RETRIEVAL, "versa_cached", "blend")
"""The same for recommendation, where items may have any number of modalities. What does not fit the data (IISAN joins
two at most, a blend needs warm items) is left out with the reason, unless it was named."""


def chosen_methods(config: BenchConfig) -> list[str]:
    """The methods a config asks for, in the order given, each once.

    Raises:
        ConfigError: a name is unknown; the nearest known one is named.
    """
    default = RETRIEVAL if config.task == "retrieval" else RECOMMENDATION
    if config.methods is None:
        return list(default)
    known = list(dict.fromkeys([*default, *METHODS, *(RECIPES if config.task == "retrieval" else ())]))
    names = [name.strip() for name in config.methods.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--methods got no name. Known: {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise ConfigError(f"--methods got {name!r}, which {config.task} does not know. {suggest(name, known)}")
    return list(dict.fromkeys(names))
