"""What `gpuq estimate` knows of jobs, and how it shows it."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import GiB, MiB, spec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from jobs.spec import JobSpec
from jobs.trace_messages import Reply
from scheduler import estimate as estimates
from scheduler.device import Snapshot
from scheduler.estimate import Basis, History
from scheduler.forecast import MAX_SEARCHES, Forecast, Outlook, forecast, trace_all
from scheduler.forecast_view import ForecastBlock, alike, show
from scheduler.tracing import Failed

COMPONENTS = {"context": 600 * MiB, "parameters": 36 * MiB, "activations": 3 * GiB, "allocator slack": 100 * MiB}
TRACED = sum(COMPONENTS.values())
FILE = Path("study/a.toml")
DEVICE = Snapshot(
    name="a GPU",
    kind="cuda",
    total_bytes=25 * GiB,
    used_by_gpuq_bytes=0,
    used_by_others_bytes=0,
    headroom_bytes=GiB,
)


def sized(batch_size: int, **fields: Any) -> JobSpec:
    made = spec(**fields)
    return replace(made, train=replace(made.train, batch_size=batch_size))


class Tracing:
    """A tracer that answers at once: what the batch needs, and the size that was searched."""

    def __init__(self, answer: Callable[[JobSpec], Reply | Failed] | None = None) -> None:
        self.asked: dict[int, tuple[JobSpec, int | None, bool]] = {}
        self._answer = answer or (lambda spec: Reply(key=0, components={"all": spec.train.batch_size * MiB}))

    @property
    def pending(self) -> bool:
        return bool(self._unanswered)

    def ask(self, key: int, spec: JobSpec, *, prepare: bool, most_bytes: int | None, search: bool) -> None:
        assert not prepare
        self.asked[key] = (spec, most_bytes, search)
        self._unanswered = set(self.asked)

    def poll(self, timeout_s: float) -> dict[int, Reply | Failed]:
        assert timeout_s > 0  # it does not spin
        key = self._unanswered.pop()
        spec, most_bytes, search = self.asked[key]
        told = self._answer(spec)
        if isinstance(told, Reply) and most_bytes is not None and search:
            told = replace(told, largest_batch_size=most_bytes // MiB)
        return {key: told}


def traced(specs: Sequence[JobSpec], tracing: Tracing, capacity_bytes: int | None = GiB) -> list[Reply | Failed]:
    """What is known of each job."""
    known = trace_all(tracing, specs, "cuda", History(), capacity_bytes)  # type: ignore[arg-type]
    return [known[estimates.signature(one, "cuda")] for one in specs]


def largest(replies: Sequence[Reply | Failed]) -> list[int | None]:
    return [reply.largest_batch_size for reply in replies if isinstance(reply, Reply)]


# -- tracing ----------------------------------------------------------------------------------------------------


def test_jobs_that_need_the_same_are_traced_once() -> None:
    tracing = Tracing()
    traced([spec("a"), spec("b", epochs=3), spec("c", network="bn4")], tracing)
    assert [one.model.name for one, _, _ in tracing.asked.values()] == ["resv1", "bn4"]


def test_the_largest_batch_is_searched_once_for_jobs_that_differ_in_the_batch_alone() -> None:
    tracing = Tracing()
    replies = traced([sized(64), sized(128), sized(64, network="bn4")], tracing)
    assert [most_bytes is not None for _, most_bytes, _ in tracing.asked.values()] == [True, False, True]
    assert largest(replies) == [886] * 3  # of the 1024 MiB, less the margin and what estimates vary by


def test_many_networks_are_traced_without_a_search() -> None:
    tracing = Tracing()
    replies = traced([spec(options={"width": width}) for width in range(1, MAX_SEARCHES + 2)], tracing)
    assert largest(replies) == [None] * (MAX_SEARCHES + 1)


def test_nothing_is_searched_where_the_device_is_not_known() -> None:
    assert largest(traced([spec()], Tracing(), capacity_bytes=None)) == [None]


def test_a_job_that_cannot_be_traced_leaves_the_others_their_estimates() -> None:
    def fails_for_small(spec: JobSpec) -> Reply | Failed:
        return Failed("too small") if spec.train.batch_size == 1 else Reply(key=0, components={"all": MiB})

    first, second = traced([sized(1), sized(64)], Tracing(fails_for_small))
    assert first == Failed("too small")
    assert isinstance(second, Reply)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(capacity=st.integers(8 * MiB, 100 * GiB))
def test_what_a_trace_may_come_to_is_the_most_whose_reservation_fits_whatever_the_next_trace_says(
    capacity: int,
) -> None:
    most = estimates.most_bytes(capacity, History()) + estimates.ESTIMATES_VARY_BYTES
    assert estimates.modelled({"all": most}, 0).reservation_bytes <= capacity
    assert estimates.modelled({"all": most + 2 * MiB}, 0).reservation_bytes > capacity - MiB


# -- the best estimate ------------------------------------------------------------------------------------------


def told(one: JobSpec, found: int | None, *, measured: int | None = None, capacity: int | None = 24 * GiB) -> Forecast:
    reply = Reply(key=0, components=COMPONENTS, parameters=5, largest_batch_size=found)
    known = History() if measured is None else History(peak_bytes={"it": measured})
    return forecast(FILE, one, "it", reply, known, capacity)


def test_a_forecast_is_the_estimate_with_its_components_and_what_would_fit() -> None:
    made = told(sized(64), 500)
    assert (made.file, made.name, made.basis) == ("study/a.toml", "job", Basis.MODELLED)
    assert (made.estimate_bytes, made.components, made.parameters) == (TRACED, COMPONENTS, 5)
    assert made.margin == pytest.approx(0.15)
    assert made.reservation_bytes == -(-int(1.15 * TRACED) // MiB) * MiB
    assert made.largest_batch_size == 500


def test_what_cannot_be_traced_is_told_with_the_reason() -> None:
    failed = forecast(FILE, spec("a"), "it", Failed("no such luck"), History(), GiB)
    assert failed == Forecast(file="study/a.toml", name="a", error="no such luck")


@pytest.mark.parametrize(
    ("measured", "found", "says"),
    [
        (2 * GiB, 500, 500),
        (2 * GiB, 50, 64),  # it was seen to fit with its own 64
        (30 * GiB, 50, 50),
        (30 * GiB, 500, None),  # it was seen not to fit with less than that
    ],
    ids=["both fit", "a trace sees less", "neither fits", "a trace sees more"],
)
def test_a_measurement_overrules_what_traces_found(measured: int, found: int, says: int | None) -> None:
    assert told(sized(64), found, measured=measured).largest_batch_size == says


def test_a_declared_figure_tells_nothing_of_other_batch_sizes() -> None:
    assert told(spec(memory="2 GiB"), 500).largest_batch_size is None


# -- for people -------------------------------------------------------------------------------------------------


def shown(forecasts: Sequence[Forecast], width: int = 80, device: Snapshot | None = DEVICE) -> list[str]:
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(ForecastBlock(forecasts, device))
    return [line.rstrip() for line in captured.get().splitlines()]


def bars(lines: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Where each bar begins and ends."""
    found = {}
    for line in lines:
        if bar := re.search(r"[\u2580-\u259f].*[\u2580-\u259f]|[\u2580-\u259f]", line):
            found[re.split(r"  +", line)[0]] = bar.span()
    return found


@pytest.mark.parametrize("width", [60, 80, 160])
def test_every_figure_is_whole_at_any_width(width: int) -> None:
    text = "\n".join(shown([told(sized(64), 500)], width))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for figures in (r"context +600 MiB +16 %", r"activations +3\.0 GiB +81 %", r"margin +572 MiB +15 %"):
        assert re.search(f"^{figures}", text, re.M)


def test_a_bar_begins_where_the_one_above_it_ends() -> None:
    found = bars(shown([told(sized(64), 500)]))
    assert abs(found["parameters"][0] - found["context"][1]) <= 1
    assert abs(found["activations"][0] - found["parameters"][1]) <= 1
    assert abs(found["allocator slack"][1] - found["estimate"][1]) <= 1
    assert abs(found["margin"][0] - found["estimate"][1]) <= 1
    assert found["margin"][1] == found["reservation"][1] == 80


def test_components_that_are_empty_have_no_row() -> None:
    lines = shown([replace(told(sized(64), 500), components={**COMPONENTS, "augmentation": 0})])
    assert not any(line.startswith("augmentation") for line in lines)


def test_it_is_shown_against_the_device() -> None:
    assert any(line.startswith("of the device    24.0 GiB  18 %") for line in shown([told(sized(64), 500)]))


def test_a_job_that_fits_is_told_how_much_more_would() -> None:
    assert "fits, alone up to train.batch_size = 500" in shown([told(sized(64), 500)])


def test_a_job_that_does_not_fit_is_told_what_would() -> None:
    lines = shown([told(sized(64), 50, measured=30 * GiB)])
    assert "needs 33.0 GiB, the device has 24.0 GiB at most; train.batch_size = 50 would fit" in lines


def test_a_device_that_cannot_be_read_is_said_to_be() -> None:
    assert "the device cannot be read: what fits it is not known" in shown([told(sized(64), None)], device=None)


def test_a_declared_job_has_a_block_too() -> None:
    lines = shown([told(spec(memory="2 GiB"), None)])
    assert (lines[0], lines[-2:]) == ("study/a.toml: job: declared", ["fits", ""])
    assert any(line.startswith("reservation     2.0 GiB") for line in lines)


def test_a_measured_job_shows_what_was_traced_beside_it() -> None:
    lines = shown([told(sized(64), 500, measured=2 * GiB)])
    assert any(line.startswith("traced            3.7 GiB") for line in lines)
    assert any(line.startswith("estimate          2.0 GiB") for line in lines)


def test_jobs_that_need_the_same_share_a_block() -> None:
    one, other = told(sized(64, name="a"), 500), told(sized(128), None)
    groups = alike([one, replace(one, name="b"), other, replace(one, name="c")])
    assert [[each.name for each in group] for group in groups] == [["a", "b", "c"], ["job"]]
    assert shown(groups[0])[0] == "study/a.toml: a and 2 more like it: modelled, 5 parameters"


def test_what_cannot_be_told_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show(Outlook([Forecast(file="a.toml", name="a", error="no such luck"), told(sized(64), 500)], DEVICE))
    out, err = capsys.readouterr()
    assert err == "gpuq: a.toml: a: no such luck\n"
    assert out.startswith("study/a.toml: job: modelled, 5 parameters\n")
