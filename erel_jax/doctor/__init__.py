"""What this machine offers to the package, and what stands in the way.

`diagnose` looks at versions, devices, memory settings, folders, network flags and energy counters, and measures how
fast matrix products run in float32, bfloat16 and int8. Each look is one `Finding` with a state: `ok`, `note` (worth
knowing), `warning` (works, but probably not as meant) or `broken` (commands will fail). Only `broken` findings make
`erel doctor` end with a non-zero exit code. Nothing is sent anywhere and no token is printed.
"""

from erel_jax.doctor.devices import measure_products, why_no_accelerator
from erel_jax.doctor.diagnosis import diagnose
from erel_jax.doctor.finding import Diagnosis, Finding, print_diagnosis

__all__ = ["Diagnosis", "Finding", "diagnose", "measure_products", "print_diagnosis", "why_no_accelerator"]
