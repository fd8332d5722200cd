"""The one door to the compiler.

Training, encoding, evaluation and search all go through `compile_step`, so whatever runs can be profiled, and what is
profiled is what runs. A `Step` compiles each distinct input shape once and counts compilations, which proves that
nothing recompiles after warm-up.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh


class Step:
    """A jitted function with its compiled programs at hand; made by `compile_step`.

    Attributes:
        compilations: number of distinct input signatures compiled so far.
        compile_seconds: wall seconds spent lowering and compiling them.
        lowered: the lowering of the latest compiled signature (None before the first).
        compiled: its compiled program.
    """

    def __init__(self, fn: Callable[..., Any], jitted: Any, mesh: Mesh | None):
        self.fn = fn
        self._jitted = jitted
        self._mesh = mesh
        self._programs: dict[Any, Any] = {}
        self.compilations = 0
        self.compile_seconds = 0.0
        self.lowered: Any = None
        self.compiled: Any = None

    def compile(self, *args: Any) -> Any:
        """Compiles for the shapes, dtypes and shardings of `args` (concrete or abstract) and returns the program."""
        start = time.perf_counter()
        if self._mesh is None:
            self.lowered = self._jitted.lower(*args)
        else:
            with jax.set_mesh(self._mesh):
                self.lowered = self._jitted.lower(*args)
        self.compiled = self.lowered.compile()
        self.compile_seconds += time.perf_counter() - start
        self.compilations += 1
        self._programs[_signature(args)] = self.compiled
        return self.compiled

    def __call__(self, *args: Any) -> Any:
        program = self._programs.get(_signature(args))
        if program is None:
            program = self.compile(*args)
        return program(*args)

    @property
    def cost(self) -> dict[str, float]:
        """XLA's cost analysis of the latest program, per device; a loop body is counted once. Empty if unavailable."""
        return dict(self.compiled.cost_analysis() or {}) if self.compiled is not None else {}

    @property
    def memory(self) -> dict[str, int] | None:
        """Bytes of the latest program per device, or None where the backend reports nothing.

        `argument`, `output`, `temporary`, `alias` and `total = argument + output + temporary - alias`.
        """
        analysis = self.compiled.memory_analysis() if self.compiled is not None else None
        if analysis is None:
            return None
        sizes = {
            "argument": int(analysis.argument_size_in_bytes),
            "output": int(analysis.output_size_in_bytes),
            "temporary": int(analysis.temp_size_in_bytes),
            "alias": int(analysis.alias_size_in_bytes),
        }
        return {**sizes, "total": sizes["argument"] + sizes["output"] + sizes["temporary"] - sizes["alias"]}


def _signature(args: Any) -> Any:
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple([_leaf_signature(leaf) for leaf in leaves])


def _leaf_signature(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, jax.Array):  # asked for directly: this runs for hundreds of leaves before every step
        return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)
    return jax.numpy.shape(leaf), jax.numpy.result_type(leaf), getattr(leaf, "weak_type", False)


def compile_step(
    fn: Callable[..., Any],
    *,
    mesh: Mesh | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    donate: Sequence[int] = (),
    compiler_options: Mapping[str, Any] | None = None,
) -> Step:
    """Makes a `Step` from a pure function.

    Args:
        fn: a pure function of pytrees of arrays.
        mesh: the mesh its shardings live on; None for one device.
        in_shardings: tree (or prefix) of shardings for the arguments, see `sharding.shardings` and `batch_sharding`;
            None leaves placement to the arguments.
        out_shardings: the same for the results.
        donate: positions of arguments whose buffers the results may reuse.
        compiler_options: XLA options of this program alone, by their names.

    Returns:
        A `Step`: call it like `fn`, or `compile` it on abstract arguments first and read `cost` and `memory`.
    """
    options: dict[str, Any] = {"donate_argnums": tuple(donate)}
    if in_shardings is not None:
        options["in_shardings"] = in_shardings
    if out_shardings is not None:
        options["out_shardings"] = out_shardings
    if compiler_options is not None:
        options["compiler_options"] = dict(compiler_options)
    return Step(fn, jax.jit(fn, **options), mesh)
