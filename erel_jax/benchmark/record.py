"""One measured run of one method, as one line of `records.jsonl`.

A `Record` holds what a run did (task, data, method, seed, settings), how good it was (metrics in 0..1), what it cost
(time, memory, parameters, FLOPs, latency, bytes, energy) and where it ran (command, environment). It is the only thing
the summaries and the report read, so whatever they show can be recomputed from the file.

A cost that could not be measured is null and has an entry in `unavailable` that says why. It is never 0: a zero would
look like the best value there is. The fields, their units and the rules are described for readers of the file in
`docs/records.md`.
"""

import dataclasses
import json
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from erel_jax.artifacts import write_bytes_atomic
from erel_jax.errors import ConfigError, DataError, suggest

SCHEMA_VERSION = "1"

KINDS = ("floor", "learned")

ENVIRONMENT_KEYS = (
    "python",
    "jax",
    "package_version",
    "commit",
    "device",
    "cpu",
    "cores",
    "os",
    "precision",
)
"""Keys every environment must have; more may be added. A null needs a reason under `environment.<key>`."""

NOT_TRAINED = "a floor is not trained"
NOT_RECORDED = "not recorded"
NOT_SUMMARIZED = "computed when a run is summarized"
NOT_FOR_FLOORS = "defined for learned methods only"
AUTOMATIC_REASONS = (NOT_TRAINED, NOT_RECORDED, NOT_SUMMARIZED, NOT_FOR_FLOORS)


def _declare(check: str, *, training: bool = False, required: bool = True) -> Any:
    """Declare a field that is null where it is unavailable.

    Args:
        check: "text", "count" (integer >= 0), "amount" (real >= 0) or "positive" (real > 0).
        training: the field describes training, so a floor has none.
        required: a null needs the writer's own reason; otherwise "not recorded" is filled in.
    """
    return field(default=None, metadata={"check": check, "training": training, "required": required})


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of one method with one seed.

    Construction checks everything and fills in the reasons that follow from the kind (a floor is not trained).

    Attributes:
        task: "retrieval" or "recommendation", or another task's name.
        data: name of the data set.
        method: name of the adaptation method or floor.
        kind: "learned", or "floor" for a training-free row that a learned method must beat.
        seed: seed of the run.
        metrics: test metrics by name, each in 0..1, or None with a reason under `metrics.<name>`.
        command: the exact command that produced the record.
        environment: versions, hardware and precision; see `ENVIRONMENT_KEYS`.
        headline_metric: the metric in `metrics` that methods are compared by.
        evaluated_queries: number of test queries (or users) behind each metric.
        trainable_parameters: parameters that receive a gradient.
        total_parameters: all parameters of the model, trainable ones included.
        train_seconds: wall time of training without compilation, feature extraction and evaluation.
        train_step_seconds: median wall time of one training step after warm-up.
        train_step_seconds_spread: interquartile range of the step time.
        train_flops_per_step: floating point operations of one training step, over all devices.
        peak_bytes: peak memory of the run.
        peak_bytes_source: how `peak_bytes` was measured, for example "device memory statistics" or "peak RSS".
        compile_seconds: time spent compiling.
        extract_seconds: time to compute cached features; 0 for a method that caches none.
        evaluate_seconds: time of the test evaluation.
        recompiles_after_warmup: compilations after warm-up; anything but 0 is a defect.
        encode_items_per_second: items encoded per second, batched.
        query_seconds_p50: median latency of one query, batch 1.
        query_seconds_p99: 99th percentile of the same.
        bytes_per_item: stored bytes per item of the searched representation.
        energy_joules: energy of training.
        epochs: passes over the training data.
        steps: training steps taken.
        batch_size: examples per training step, over all devices.
        learning_rate: peak learning rate.
        tpme: training-time, parameter and memory efficiency within the compared set; lower is better.
        tpme_set: hash of the compared set; scores with different hashes must not be compared.
        pscp: quality discounted by absolute costs; higher is better.
        validation_metrics: like `metrics`, on the validation split of the chosen checkpoint.
        loss_history: (step, training loss) pairs, thinned.
        dropped: counts of what the data reader left out, by reason.
        notes: remarks for the report.
        unavailable: for each null field the reason; keys are field names, `metrics.<name>` or `environment.<key>`.
        schema_version: version of this schema.
    """

    task: str
    data: str
    method: str
    kind: Literal["floor", "learned"]
    seed: int
    metrics: Mapping[str, float | None]
    command: str
    environment: Mapping[str, str | int | float | bool | None]

    headline_metric: str | None = _declare("text", required=False)
    evaluated_queries: int | None = _declare("count", required=False)
    trainable_parameters: int | None = _declare("count")
    total_parameters: int | None = _declare("count")
    train_seconds: float | None = _declare("positive", training=True)
    train_step_seconds: float | None = _declare("positive", training=True)
    train_step_seconds_spread: float | None = _declare("amount", training=True, required=False)
    train_flops_per_step: float | None = _declare("positive", training=True)
    peak_bytes: int | None = _declare("positive")
    peak_bytes_source: str | None = _declare("text")
    compile_seconds: float | None = _declare("amount", required=False)
    extract_seconds: float | None = _declare("amount", required=False)
    evaluate_seconds: float | None = _declare("amount", required=False)
    recompiles_after_warmup: int | None = _declare("count", required=False)
    encode_items_per_second: float | None = _declare("positive")
    query_seconds_p50: float | None = _declare("positive")
    query_seconds_p99: float | None = _declare("positive")
    bytes_per_item: float | None = _declare("amount")
    energy_joules: float | None = _declare("positive")
    epochs: float | None = _declare("amount", training=True, required=False)
    steps: int | None = _declare("count", training=True, required=False)
    batch_size: int | None = _declare("count", training=True, required=False)
    learning_rate: float | None = _declare("amount", training=True, required=False)
    tpme: float | None = _declare("amount")
    tpme_set: str | None = _declare("text")
    pscp: float | None = _declare("amount")

    validation_metrics: Mapping[str, float | None] = field(default_factory=dict)
    loss_history: tuple[tuple[int, float], ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    schema_version: str = SCHEMA_VERSION

    def __post_init__(self):
        _check_identity(self)
        set_field = object.__setattr__
        set_field(self, "metrics", _checked_metrics(self, "metrics"))
        set_field(self, "validation_metrics", _checked_metrics(self, "validation_metrics"))
        for declared in _declared():
            value = _checked(declared.name, getattr(self, declared.name), declared.metadata["check"])
            set_field(self, declared.name, value)
        set_field(self, "loss_history", tuple(_checked_loss(self, pair) for pair in self.loss_history))
        set_field(self, "dropped", {key: _checked(f"dropped.{key}", n, "count") for key, n in self.dropped.items()})
        set_field(self, "notes", tuple(self.notes))
        set_field(self, "unavailable", _completed_reasons(self))
        _check_relations(self)

    def to_json(self) -> str:
        """Return the record as one line of strict JSON (no NaN, ASCII, no line break)."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        ordered = {"schema_version": fields.pop("schema_version"), **fields}
        return json.dumps(ordered, allow_nan=False, ensure_ascii=True)

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Read one line written by `to_json`; fields this version does not know are ignored.

        Args:
            line: one JSON object.

        Returns:
            The record.

        Raises:
            DataError: not strict JSON, an unknown schema version, a missing field or a value out of range.
        """
        try:
            values = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:
            raise DataError(f"got a line that is not strict JSON ({error}), expected one object per line") from error
        if not isinstance(values, dict):
            raise DataError(f"got a JSON {type(values).__name__}, expected one object per line")
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise DataError(
                f"got schema version {version!r}, expected {SCHEMA_VERSION!r}; "
                "read the file with the erel_jax version that wrote it"
            )
        known = {f.name for f in dataclasses.fields(cls)}
        values = {name: value for name, value in values.items() if name in known}
        for name in ("loss_history", "notes"):
            if isinstance(values.get(name), list):
                values[name] = tuple(tuple(item) if isinstance(item, list) else item for item in values[name])
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise DataError(str(error).replace("Record.__init__()", "a record")) from error


def write_records(path: str | os.PathLike[str], records: Iterable[Record]) -> Path:
    """Write `records.jsonl` whole or not at all.

    Args:
        path: file to write; its folder must exist.
        records: the records in the order of the lines.

    Returns:
        The path.
    """
    return write_bytes_atomic(path, "".join(f"{record.to_json()}\n" for record in records).encode())


def append_record(path: str | os.PathLike[str], record: Record) -> None:
    """Add one line to `records.jsonl` and flush it to disk, so that a killed run keeps what it measured.

    Args:
        path: file to append to; created when missing.
        record: the record.
    """
    with open(path, "ab") as stream:
        stream.write(f"{record.to_json()}\n".encode())
        stream.flush()
        os.fsync(stream.fileno())


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Read `records.jsonl`.

    Args:
        path: the file. Blank lines are skipped.

    Returns:
        The records in file order.

    Raises:
        DataError: a missing or empty file, or a broken line, an unknown schema version or an impossible value; the
            message names file and line.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a records.jsonl of `erel bench`") from error
    records = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(Record.from_json(line.decode("utf-8")))
        except (DataError, UnicodeDecodeError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    if not records:
        raise DataError(f"{path}: holds no records; run `erel bench` to write some")
    return records


def _declared() -> list[dataclasses.Field]:
    return [f for f in dataclasses.fields(Record) if "check" in f.metadata]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; an unavailable value is null")


def _check_identity(record: Record) -> None:
    for name in ("task", "data", "method", "command"):
        value = getattr(record, name)
        if not (isinstance(value, str) and value):
            raise ConfigError(f"got {name}={value!r}, expected a non-empty string")
    for name in ("metrics", "validation_metrics", "environment", "dropped", "unavailable"):
        if not isinstance(getattr(record, name), Mapping):
            raise ConfigError(f"got {name}={getattr(record, name)!r}, expected a mapping")
    if record.kind not in KINDS:
        raise ConfigError(
            f"got kind={record.kind!r}, expected 'floor' or 'learned'. {suggest(str(record.kind), KINDS)}"
        )
    if isinstance(record.seed, bool) or not isinstance(record.seed, numbers.Integral):
        raise ConfigError(f"got seed={record.seed!r}, expected an integer")
    object.__setattr__(record, "seed", int(record.seed))
    if record.schema_version != SCHEMA_VERSION:
        raise ConfigError(f"got schema_version={record.schema_version!r}, this version writes {SCHEMA_VERSION!r}")
    missing = [key for key in ENVIRONMENT_KEYS if key not in record.environment]
    if missing:
        raise ConfigError(
            f"got an environment without {', '.join(missing)}; give each key, null with a reason in "
            "unavailable['environment.<key>'] where it is not known"
        )
    for key, value in record.environment.items():
        if not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
            raise ConfigError(f"got environment[{key!r}]={value!r}, expected text, a finite number or None")


def _checked_metrics(record: Record, name: str) -> dict[str, float | None]:
    """Metrics as Python floats; a value outside 0..1 is a percentage or a loss and is refused."""
    checked: dict[str, float | None] = {}
    for metric, value in getattr(record, name).items():
        number = _checked(f"{name}[{metric!r}]", value, "amount")
        if number is not None and number > 1:
            raise ConfigError(f"got {name}[{metric!r}]={value!r}, expected 0..1; divide percentages by 100")
        checked[metric] = number
    return checked


def _checked(name: str, value: Any, check: str) -> Any:
    """Return the value as a plain Python value, or raise."""
    if value is None:
        return None
    if check == "text":
        if not isinstance(value, str):
            raise ConfigError(f"got {name}={value!r}, expected text")
        return value
    kind = numbers.Integral if check == "count" else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = "an integer" if check == "count" else "a number"
        raise ConfigError(f"got {name}={value!r} of type {type(value).__name__}, expected {wanted} or None")
    number = int(value) if isinstance(value, numbers.Integral) else float(value)
    if not math.isfinite(number) or number < 0:
        raise ConfigError(f"got {name}={value!r}, expected a finite number >= 0; give None and a reason instead")
    if check == "positive" and number == 0:
        raise ConfigError(f"got {name}=0, expected more; give None and a reason where a value could not be measured")
    return number


def _checked_loss(record: Record, pair: tuple[int, float]) -> tuple[int, float]:
    if len(pair) != 2 or not math.isfinite(pair[1]):
        raise ConfigError(f"got {pair!r} in the loss history of {record.method}, expected (step, finite loss)")
    return int(pair[0]), float(pair[1])


def _completed_reasons(record: Record) -> dict[str, str]:
    """The given reasons plus those that follow from the kind; every null has one and nothing else does."""
    reasons = dict(record.unavailable)
    nulls: dict[str, str | None] = {}
    for declared in _declared():
        if getattr(record, declared.name) is None:
            nulls[declared.name] = _default_reason(record, declared)
    nulls |= {f"metrics.{name}": None for name, value in record.metrics.items() if value is None}
    nulls |= {f"validation_metrics.{name}": None for name, value in record.validation_metrics.items() if value is None}
    nulls |= {f"environment.{key}": None for key, value in record.environment.items() if value is None}
    for name, default in nulls.items():
        if name not in reasons and default is None:
            raise ConfigError(f"got {name}=None without a reason; say why in unavailable[{name!r}], or give the value")
        reasons.setdefault(name, default or "")
    for name, reason in list(reasons.items()):
        if name not in nulls and reason in AUTOMATIC_REASONS:  # dataclasses.replace filled the value in
            del reasons[name]
        elif name not in nulls:
            raise ConfigError(f"got a reason for {name!r}, which is not null. {suggest(name, nulls)}")
        elif not (isinstance(reason, str) and reason):
            raise ConfigError(f"got reason {reason!r} for {name!r}, expected a sentence")
    return reasons


def _default_reason(record: Record, declared: dataclasses.Field) -> str | None:
    if declared.name in ("tpme", "tpme_set", "pscp"):
        return NOT_FOR_FLOORS if record.kind == "floor" else NOT_SUMMARIZED
    if declared.metadata["training"] and record.kind == "floor":
        return NOT_TRAINED
    return None if declared.metadata["required"] else NOT_RECORDED


def _check_relations(record: Record) -> None:
    trainable, total = record.trainable_parameters, record.total_parameters
    if trainable is not None and total is not None and trainable > total:
        raise ConfigError(f"got {trainable} trainable parameters and {total} in total, expected at most the total")
    p50, p99 = record.query_seconds_p50, record.query_seconds_p99
    if p50 is not None and p99 is not None and p50 > p99:
        raise ConfigError(f"got query_seconds_p50={p50} above query_seconds_p99={p99}, expected p50 <= p99")
    if record.headline_metric is not None and record.headline_metric not in record.metrics:
        raise ConfigError(
            f"got headline_metric={record.headline_metric!r}, which is not in metrics. "
            f"{suggest(record.headline_metric, record.metrics)}"
        )
