"""Exactly one of many takes a lease, and a dead holder's lease goes to exactly one."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

from erel_jax.catalogs.leases import Leases, create_once


def in_threads(count, run):
    barrier, results = threading.Barrier(count), []

    def one():
        barrier.wait()
        results.append(run())

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_one_of_many_creates_a_file(tmp_path):
    for attempt in range(20):
        assert sum(in_threads(6, lambda n=attempt: create_once(tmp_path / f"f{n}", "text"))) == 1
    assert {path.read_text() for path in tmp_path.iterdir()} == {"text"}, "nothing but the files is left"


def test_a_lease_is_held_until_it_is_given_back(tmp_path):
    leases = Leases(tmp_path / "leases")
    lease = leases.take("a")
    assert lease is not None
    with lease:
        assert Leases(tmp_path / "leases").take("a") is None
        assert str(os.getpid()) in leases.holder("a")
        assert leases.take("b") is not None
    again = leases.take("a")
    assert again is not None


def test_the_lease_of_a_dead_process_is_free_at_once_for_one(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    about = {"process": int(done.stdout), "host": socket.gethostname(), "token": "x"}
    for attempt in range(10):
        name = f"shard{attempt}"
        leases = Leases(tmp_path)
        (tmp_path / f"{name}.lease").write_text(json.dumps(about))
        assert sum(lease is not None for lease in in_threads(4, lambda: leases.take(name))) == 1  # noqa: B023


def test_the_lease_of_another_computer_must_be_silent_first(tmp_path):
    leases = Leases(tmp_path, timeout=0.2)
    path = tmp_path / "a.lease"
    path.write_text(json.dumps({"process": 1, "host": "elsewhere", "token": "x"}))
    assert leases.take("a") is None
    time.sleep(0.3)
    os.utime(path)  # it beats
    assert leases.take("a") is None
    time.sleep(0.3)
    assert leases.take("a") is not None


def test_a_held_lease_beats_and_one_that_was_taken_over_is_not_removed(tmp_path):
    leases = Leases(tmp_path, timeout=0.3)
    lease = leases.take("a")
    assert lease is not None
    with lease:
        before = lease.path.stat().st_mtime_ns
        time.sleep(0.2)
        assert lease.path.stat().st_mtime_ns > before
        lease.path.write_text(json.dumps({"process": 1, "host": "elsewhere", "token": "other"}))
    assert lease.path.exists()


def test_a_folder_of_leases_that_has_gone_means_that_all_is_done(tmp_path):
    leases = Leases(tmp_path / "leases")
    (tmp_path / "leases").rmdir()
    assert leases.take("a") is None
