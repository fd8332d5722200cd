"""What a dual encoder reads at each step of the retrieval task: live inputs, or what its towers said once."""

from typing import Any

import numpy as np

from erel_jax.adapters.adapted import Adapted, read_tower
from erel_jax.benchmark.messages import Messenger
from erel_jax.benchmark.retrieval_problem import Problem
from erel_jax.benchmark.states import stored_states, tower_identity
from erel_jax.data.state_store import Layout, StateStore
from erel_jax.sharding import Step, compile_step

ENCODE_BATCH = 256
SAMPLE = 2048  # texts or pictures that the standardization of side networks is measured on


class Feeds:
    """What an adapted model reads at each step: live inputs, or states stored once per tower and split."""

    def __init__(self, problem: Problem, adapted: Adapted, messenger: Messenger):
        self.problem, self.adapted, self.messenger = problem, adapted, messenger
        self.build_seconds = 0.0
        self._states: dict[tuple[str, str], StateStore] = {}
        if adapted.method.cached:
            for modality in problem.encoders:
                step = compile_step(self._read(modality))
                for split in ("train", "validation", "test"):
                    self._store(step, modality, split)

    def __call__(self, modality: str, split: str, rows: np.ndarray) -> Any:
        """Inputs of `modality` for rows of a split's texts or pictures."""
        if self.adapted.method.cached:
            return self._states[modality, split].read(rows)
        return self.problem.inputs(modality, split, rows)

    def sample(self, modality: str) -> np.ndarray:
        """What the tower says of some training texts or pictures, float32[N, …]."""
        total = self.problem.rows(modality, "train")
        rows = np.linspace(0, total - 1, min(SAMPLE, total)).astype(int)
        if self.adapted.method.cached:
            return self._states[modality, "train"].widened(rows)
        step, tower, parts = compile_step(self._read(modality)), self.problem.towers[modality], []
        for start in range(0, len(rows), ENCODE_BATCH):
            chunk = np.resize(rows[start : start + ENCODE_BATCH], ENCODE_BATCH)
            parts.append(np.asarray(step(tower.params, self.problem.inputs(modality, "train", chunk)), np.float32))
        return np.concatenate(parts)[: len(rows)]

    def _taps(self, modality: str) -> tuple[int, ...] | None:
        return self.adapted.taps.get(modality)

    def _read(self, modality: str):
        encoder, taps = self.problem.encoders[modality], self._taps(modality)
        return lambda params, inputs: read_tower(encoder, params, inputs, taps)

    def _store(self, step: Step, modality: str, split: str) -> None:
        problem, tower = self.problem, self.problem.towers[modality]

        def encode(start: int, stop: int) -> np.ndarray:
            rows = np.minimum(np.arange(start, start + ENCODE_BATCH), stop - 1)
            states = step(tower.params, problem.inputs(modality, split, rows))
            return np.asarray(states, np.float32)[: stop - start]

        taps, config = self._taps(modality), problem.config
        identity = tower_identity(tower, problem.data.fingerprint, taps, config.precision)
        shape = (tower.encoder.embedding_width,) if taps is None else (len(taps), tower.encoder.width)
        rows = problem.rows(modality, split)
        store = stored_states(
            problem.cache,
            f"{modality}-{self.adapted.method.reads}",
            {**identity, "split": split},
            Layout(rows=rows, shape=shape, storage=config.state_storage, chunk=ENCODE_BATCH),
            encode,
            self.messenger.progress,
        )
        self._states[modality, split] = store
        self.build_seconds += store.build_seconds
