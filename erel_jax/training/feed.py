"""What the training loop eats: a stream of batches that can be resumed, moved to the device ahead of use."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jax.sharding import Sharding

from erel_jax.errors import DataError
from erel_jax.training.state import place_batch


class Batches(Protocol):
    """An endless stream of training batches that can go on where it stopped."""

    def __next__(self) -> tuple[Mapping[str, Any], Sequence[Any]]:
        """The next batch, `(arrays by name, ids of its examples)`; ids serve error reports alone."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON values from which `restore` goes on with the batch that `__next__` would give now."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        ...


@dataclass
class Feed:
    """Batches on the device, and the position of the stream.

    Attributes:
        batches: The stream.
        home: `state.step.sharding`, see `place_batch`.
        position: The stream's state before the batch taken last: from here on, if that one was not used.
        seconds: Wall seconds spent making and dispatching batches.
        given: Number of batches taken.
    """

    batches: Batches
    home: Sharding
    position: dict[str, Any] | None = None
    seconds: float = 0.0
    given: int = 0

    def take(self) -> tuple[Any, Sequence[Any]]:
        """The next batch and the ids of its examples.

        Raises:
            DataError: the stream has ended.
        """
        begun = time.perf_counter()
        self.position = self.batches.state()
        try:
            batch, ids = next(self.batches)  # pyright: ignore[reportArgumentType]
        except StopIteration:
            raise DataError(
                f"the batches ended after {self.given}, although more steps were asked for. "
                "Use a stream that starts the next epoch by itself."
            ) from None
        placed = place_batch(dict(batch), self.home)
        self.given += 1
        self.seconds += time.perf_counter() - begun
        return placed, ids
