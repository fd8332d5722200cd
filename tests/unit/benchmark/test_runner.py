"""What a run does with methods that do not fit its data; workers are replaced."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from erel_jax.benchmark import runner
from erel_jax.benchmark.config import BenchConfig
from erel_jax.errors import ConfigError, DataError


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Runs a bench whose jobs answer by `refusals` (method or kind → error); returns (jobs that ran, what was said)."""

    def run(refusals, **options):
        config = BenchConfig(out=tmp_path / "run", cache=tmp_path / "cache", **options)
        ran, said = [], io.StringIO()

        def run_job(config, job, *rest):
            if (job.method or job.kind) in refusals:
                raise refusals[job.method or job.kind]
            ran.append(job.name)

        monkeypatch.setattr(runner, "_run_job", run_job)
        monkeypatch.setattr(runner, "read_result", lambda config, job: ([], {}) if job.name in ran else None)
        monkeypatch.setattr(runner, "write_report", lambda *rest: SimpleNamespace(html="report.html"))
        monkeypatch.setattr(runner, "fill_scores", lambda records: records)
        monkeypatch.setattr(runner, "print_table", lambda records, console: None)
        runner.run(config, "erel bench", Console(file=said, width=200))
        return ran, said.getvalue()

    return run


def test_a_method_of_the_default_run_that_does_not_fit_is_left_out_with_its_reason(bench):
    ran, said = bench({"iisan": ConfigError("joins two modalities")}, seeds=2)
    assert "iisan-seed0" not in ran and "iisan-seed1" not in ran
    assert {"iisan_cached-seed0", "iisan_cached-seed1", "frozen-seed1"} <= set(ran)
    assert said.count("joins two modalities") == 1 and "iisan-seed1 left out" in said


def test_a_method_that_was_named_is_not_left_out(bench):
    with pytest.raises(ConfigError, match="joins two modalities"):
        bench({"iisan": ConfigError("joins two modalities")}, methods="frozen,iisan")


@pytest.mark.parametrize("refusals", [{"prepare": ConfigError("no tower")}, {"lora": DataError("a bad file")}])
def test_other_errors_stop_the_run(bench, refusals):
    error = next(iter(refusals.values()))
    with pytest.raises(type(error), match=str(error)):
        bench(refusals)


def test_a_run_in_which_nothing_fits_is_an_error(bench):
    refusals = {name: ConfigError(f"{name} does not fit") for name in runner.chosen_methods(BenchConfig())}
    with pytest.raises(ConfigError, match="frozen does not fit"):
        bench(refusals)
