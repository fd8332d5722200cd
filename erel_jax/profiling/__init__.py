"""What a program costs: operations, memory, time, energy, and where that was measured."""

from erel_jax.profiling.analytic import bert_flops, training_flops, transformer_flops, vit_flops
from erel_jax.profiling.energy import Energy, EnergyMeter
from erel_jax.profiling.environment import describe_environment, environment_reasons
from erel_jax.profiling.flops import Flops, count_flops, xla_flops
from erel_jax.profiling.memory import Peak, PeakMeter, compiled_bytes, peak_memory, reset_process_peak
from erel_jax.profiling.timing import Timing, latency, measure, percentile, summarize, throughput

__all__ = [
    "Energy",
    "EnergyMeter",
    "Flops",
    "Peak",
    "PeakMeter",
    "Timing",
    "bert_flops",
    "compiled_bytes",
    "count_flops",
    "describe_environment",
    "environment_reasons",
    "latency",
    "measure",
    "peak_memory",
    "percentile",
    "reset_process_peak",
    "summarize",
    "throughput",
    "training_flops",
    "transformer_flops",
    "vit_flops",
    "xla_flops",
]
