"""What a worker gives back of its reservation: all above its peak, once that has settled, and it is held to that."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import STEPS, Killed, after, job, trainer, user_job

from jobs import surplus
from jobs.room import StopRequested
from jobs.run_dir import Progress, RunDir, read_record
from jobs.spec import DiagnosticsSpec
from jobs.surplus import MiB, Surplus

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GiB = 1 << 30

LARGE = """
from torch import nn


def large(classes, channels, trained):
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * 32 * 32, 4096), nn.Linear(4096, classes))
    network[1].requires_grad_(trained)
    return network
"""


def left(peaks_mib: Iterable[float], *, steps: int = 10, steps_to_peak: int = 1) -> list[float | None]:
    """What is left of 1000 MiB after each evaluation, in MiB, where it was lowered; `steps` lie between two."""
    of_1000_mib = Surplus(CPU, 1000 * MiB, 0, steps_to_peak)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for number, peak in enumerate(peaks_mib, start=1):
            patch.setattr(surplus, "peak_bytes", lambda *_, peak=peak: int(peak * MiB))
            found.append(of_1000_mib.give_back(number * steps))
    return [None if one is None else one / MiB for one in found]


def test_what_lies_above_a_peak_that_has_settled_is_given_back_but_for_a_little() -> None:
    assert left([600, 600]) == [None, 630]


def test_what_is_still_to_come_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surplus, "peak_bytes", lambda *_: 600 * MiB)
    of_1000_mib = Surplus(CPU, 1000 * MiB, 0, steps_to_peak=1)
    assert [of_1000_mib.give_back(10, 200 * MiB), of_1000_mib.give_back(20, 200 * MiB)] == [None, 800 * MiB]


def test_a_peak_that_still_rises_has_not_settled() -> None:
    assert left([500, 600, 660, 670, 670]) == [None, None, None, 704, None]


def test_a_peak_means_nothing_before_the_second_chunk_was_made() -> None:
    assert left([600, 600, 600], steps=10, steps_to_peak=25) == [None, None, 630]


def test_where_there_is_nothing_to_give_back_the_reservation_stays() -> None:
    assert left([960, 960]) == [None, None]


@given(st.lists(st.floats(400, 1100), max_size=12), st.integers(1, 30))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_it_is_lowered_once_at_most_and_never_below_the_peak(held: list[float], steps_to_peak: int) -> None:
    peaks = list(accumulate(held, max))
    found = left(peaks, steps_to_peak=steps_to_peak)
    lowered = [(peak, one) for peak, one in zip(peaks, found, strict=True) if one is not None]
    assert len(lowered) <= 1
    assert all(peak <= one < 1000 for peak, one in lowered)


def test_on_a_gpu_the_allocator_is_capped_at_what_is_left_beside_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    capped: list[int] = []
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda _: 1000 * MiB)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=8 * GiB))
    monkeypatch.setattr(
        "torch.cuda.set_per_process_memory_fraction", lambda share, _: capped.append(int(share * 8 * GiB))
    )
    of_4_gib = Surplus(GPU, 4 * GiB, 600 * MiB, steps_to_peak=1)
    assert [of_4_gib.give_back(10), of_4_gib.give_back(20)] == [None, 1632 * MiB]
    assert capped == [(1632 - 600) * MiB]


class TestTraining:
    """Of epochs of four steps in two chunks, each of which holds 600 MiB at most."""

    @pytest.fixture(autouse=True)
    def _peak(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(surplus, "peak_bytes", lambda *_: 600 * MiB)

    @staticmethod
    def said(folder: Path) -> Progress:
        progress = read_record(RunDir(folder).attempt(1).progress, Progress)
        assert progress is not None
        return progress

    def test_it_says_what_it_has_kept_beside_what_it_said_before(self, tmp_path: Path, cache_dir: Path) -> None:
        trainer(job(), tmp_path, cache_dir, reservation_bytes=GiB).run()
        progress = self.said(tmp_path)
        assert (progress.reservation_bytes, progress.steps) == (630 * MiB, 3 * STEPS)

    @pytest.mark.parametrize(("trained", "kept_mib"), [(False, 600 + 48 + 1), (True, 630)])
    def test_it_keeps_what_reading_weights_takes_that_have_no_gradients(
        self, tmp_path: Path, cache_dir: Path, trained: bool, kept_mib: int
    ) -> None:
        """48 MiB of weights, and a layer's bias, which makes it another one."""
        file = tmp_path / "large.py"
        file.write_text(LARGE)
        spec = user_job(file, "large", options={"trained": trained})
        trainer(spec, tmp_path, cache_dir, reservation_bytes=GiB).run()
        assert self.said(tmp_path).reservation_bytes == kept_mib * MiB

    def test_before_it_is_held_to_that_it_says_nothing(
        self, tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def dies(*_: object) -> None:
            raise Killed

        monkeypatch.setattr(surplus, "cap_memory", dies)
        with pytest.raises(Killed):
            trainer(job(), tmp_path, cache_dir, reservation_bytes=GiB).run()
        assert self.said(tmp_path).reservation_bytes is None

    def test_after_a_resume_the_peak_is_shown_anew(self, tmp_path: Path, cache_dir: Path) -> None:
        """Two evaluations have been, but only one of this process."""
        for steps in (STEPS + 1, STEPS):
            with pytest.raises(StopRequested):
                trainer(job(), tmp_path, cache_dir, after(steps), reservation_bytes=GiB).run()
        progress = self.said(tmp_path)
        assert (progress.resumed_from_step, progress.reservation_bytes) == (STEPS + 1, None)

    @pytest.mark.parametrize(
        ("changes", "reservation_bytes"),
        [({"diagnostics": DiagnosticsSpec(landscape=True, landscape_grid=3, landscape_images=8)}, GiB), ({}, None)],
        ids=["a landscape is still to come", "it may not"],
    )
    def test_it_keeps_all(
        self, tmp_path: Path, cache_dir: Path, changes: dict[str, Any], reservation_bytes: int | None
    ) -> None:
        trainer(job(**changes), tmp_path, cache_dir, reservation_bytes=reservation_bytes).run()
        assert self.said(tmp_path).reservation_bytes is None
