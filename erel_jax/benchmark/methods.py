"""Which methods a run compares."""

from erel_jax.benchmark.config import BenchConfig
from erel_jax.errors import ConfigError, suggest

RETRIEVAL = ("frozen", "linear_probe", "full", "bitfit", "lora", "rslora", "houlsby", "iisan", "iisan_cached")
RECOMMENDATION = (*RETRIEVAL, "blend")


def chosen_methods(config: BenchConfig) -> list[str]:
    """The methods a config asks for, in the order given, each once.

    Raises:
        ConfigError: a name is unknown; the nearest known one is named.
    """
    known = RETRIEVAL if config.task == "retrieval" else RECOMMENDATION
    if config.methods is None:
        return list(known)
    names = [name.strip() for name in config.methods.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--methods got no name. Known: {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise ConfigError(f"--methods got {name!r}, which {config.task} does not know. {suggest(name, known)}")
    return list(dict.fromkeys(names))
