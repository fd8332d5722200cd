"""All looks at the machine, in reading order."""

from collections.abc import Callable, Iterator

from erel_jax.doctor.devices import look_at_devices, look_at_memory, look_at_products
from erel_jax.doctor.finding import Diagnosis, Finding, one_line
from erel_jax.doctor.surroundings import look_at_compile_cache, look_at_energy, look_at_folders, look_at_network
from erel_jax.doctor.versions import look_at_versions


def diagnose(*, measure: bool = True) -> Diagnosis:
    """Look at this machine.

    A look that itself fails becomes a `broken` finding with the error's text, so that one surprise hides nothing else.

    Args:
        measure: Also time matrix products on the first device (about 1 to 3 seconds).

    Returns:
        The findings, grouped by topic in reading order.
    """
    looks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", look_at_versions),
        ("device", look_at_devices),
        ("memory", look_at_memory),
        ("folders", look_at_folders),
        ("compile cache", look_at_compile_cache),
        ("network", look_at_network),
        ("energy", look_at_energy),
    ]
    if measure:
        looks.append(("matrix products", look_at_products))
    findings: list[Finding] = []
    for topic, look in looks:
        try:
            findings.extend(look())
        except Exception as error:
            findings.append(Finding(topic=topic, name="check failed", value=one_line(error), state="broken"))
    return Diagnosis(findings=tuple(findings))
