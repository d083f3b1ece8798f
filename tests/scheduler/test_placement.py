"""Which jobs start: best-fit decreasing within memory and cores, and a reason for every job that does not."""

from dataclasses import replace

import pytest
from builders import GiB, MiB
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.placement import Candidate, Capacity, Placement, Plan, Resident, plan

PROPERTY = settings(deadline=None, max_examples=80, derandomize=True)


@st.composite
def queues(draw: st.DrawFn) -> list[Candidate]:
    count = draw(st.integers(0, 8))
    return [
        Candidate(
            job_id=job_id,
            priority=draw(st.integers(-1, 1)),
            reservation_bytes=draw(st.none() | st.integers(1, 12).map(lambda units: units * 100 * MiB)),
            threads=draw(st.integers(1, 3)),
        )
        for job_id in range(1, count + 1)
    ]


@st.composite
def capacities(draw: st.DrawFn) -> Capacity:
    """What a snapshot can say: the budget is what others leave of the whole, and no less than nothing."""
    largest = draw(st.integers(0, 20)) * 100 * MiB
    others = draw(st.integers(0, 25)) * 100 * MiB
    return Capacity(max(0, largest - others), others, largest, draw(st.none() | st.integers(1, 6)))


residents = st.lists(
    st.builds(Resident, job_id=st.integers(100, 200), held_bytes=st.integers(0, 800 * MiB), threads=st.integers(1, 2)),
    max_size=3,
)


def placed_ids(decision: Plan) -> list[int]:
    return [placement.job_id for placement in decision.placements]


def order(job: Candidate) -> tuple[int, int, int]:
    """The order jobs are considered in: priority, then size, then age."""
    return -job.priority, -(job.reservation_bytes or 0), job.job_id


# -- what holds of any queue ------------------------------------------------------------------------------------


@PROPERTY
@given(queues(), residents, capacities())
def test_memory_is_never_promised_twice(queue: list[Candidate], live: list[Resident], capacity: Capacity) -> None:
    placements = plan(queue, live, capacity).placements
    promised = sum(job.held_bytes for job in live) + sum(placement.reservation_bytes for placement in placements)
    assert not placements or promised <= capacity.budget_bytes


@PROPERTY
@given(queues(), residents, capacities())
def test_cores_are_never_promised_twice(queue: list[Candidate], live: list[Resident], capacity: Capacity) -> None:
    placed = set(placed_ids(plan(queue, live, capacity)))
    taken = sum(job.threads for job in live) + sum(job.threads for job in queue if job.job_id in placed)
    assert capacity.threads is None or not placed or taken <= capacity.threads


@PROPERTY
@given(queues(), residents, capacities())
def test_every_job_starts_waits_or_is_impossible(
    queue: list[Candidate], live: list[Resident], capacity: Capacity
) -> None:
    decision = plan(queue, live, capacity)
    told = [*placed_ids(decision), *decision.waiting, *decision.impossible]
    assert sorted(told) == sorted(job.job_id for job in queue)
    assert all([*decision.waiting.values(), *decision.impossible.values()])


@PROPERTY
@given(queues(), residents, capacities())
def test_a_job_starts_with_what_was_asked_for_it(
    queue: list[Candidate], live: list[Resident], capacity: Capacity
) -> None:
    asked = {job.job_id: job.reservation_bytes for job in queue}
    for placement in plan(queue, live, capacity).placements:
        assert placement.reservation_bytes == asked[placement.job_id]


@PROPERTY
@given(queues(), residents, capacities())
def test_a_job_waits_only_if_it_did_not_fit_beside_those_before_it(
    queue: list[Candidate], live: list[Resident], capacity: Capacity
) -> None:
    decision = plan(queue, live, capacity)
    placed = [job for job in queue if job.job_id in placed_ids(decision)]
    held_bytes, held_threads = sum(job.held_bytes for job in live), sum(job.threads for job in live)
    for job in queue:
        reason = decision.waiting.get(job.job_id, "")
        if job.reservation_bytes is None or not reason or "higher priority" in reason:
            continue
        before = [other for other in placed if order(other) < order(job)]
        memory = held_bytes + sum(other.reservation_bytes or 0 for other in before) + job.reservation_bytes
        threads = held_threads + sum(other.threads for other in before) + job.threads
        assert memory > capacity.budget_bytes or (capacity.threads is not None and threads > capacity.threads)


@PROPERTY
@given(queues(), residents, capacities())
def test_no_job_overtakes_one_of_higher_priority(
    queue: list[Candidate], live: list[Resident], capacity: Capacity
) -> None:
    decision = plan(queue, live, capacity)
    waiting = [job for job in queue if job.job_id in decision.waiting and job.reservation_bytes is not None]
    for job in queue:
        if job.job_id in placed_ids(decision):
            assert all(other.priority <= job.priority for other in waiting)


@PROPERTY
@given(queues(), residents, capacities(), st.randoms(use_true_random=False))
def test_the_order_of_the_queue_does_not_matter(
    queue: list[Candidate], live: list[Resident], capacity: Capacity, random: object
) -> None:
    shuffled = list(queue)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan(shuffled, live, capacity) == plan(queue, live, capacity)


@PROPERTY
@given(queues(), residents, capacities(), st.integers(1, 1000))
def test_more_memory_changes_plans_only_by_starting_a_job_that_had_to_wait(
    queue: list[Candidate], live: list[Resident], capacity: Capacity, more_mib: int
) -> None:
    """A larger job may then displace smaller ones, but the first that is decided otherwise is one that starts."""
    before = placed_ids(plan(queue, live, capacity))
    after = placed_ids(plan(queue, live, replace(capacity, budget_bytes=capacity.budget_bytes + more_mib * MiB)))
    changed = [job.job_id for job in sorted(queue, key=order) if (job.job_id in before) != (job.job_id in after)]
    assert not changed or changed[0] in after


@PROPERTY
@given(queues(), residents, capacities())
def test_what_is_impossible_is_so_whatever_else_runs(
    queue: list[Candidate], live: list[Resident], capacity: Capacity
) -> None:
    assert plan(queue, live, capacity).impossible == plan(queue, [], capacity).impossible


# -- examples, with the words a person reads --------------------------------------------------------------------

ROOMY = Capacity(budget_bytes=GiB, used_by_others_bytes=0, largest_bytes=GiB, threads=None)


def job(job_id: int, mib: int | None, *, priority: int = 0, threads: int = 1) -> Candidate:
    return Candidate(job_id, priority, None if mib is None else mib * MiB, threads)


def test_nothing_queued_is_nothing_to_do() -> None:
    assert plan([], [], ROOMY) == Plan([], {}, {})


def test_the_largest_starts_first_and_the_rest_fills_the_gap() -> None:
    decision = plan([job(1, 300), job(2, 500), job(3, 600)], [], ROOMY)
    assert decision.placements == [Placement(3, 600 * MiB), Placement(1, 300 * MiB)]
    assert decision.waiting == {2: "needs 500 MiB, 424 MiB unreserved"}


def test_equals_start_in_the_order_they_came() -> None:
    assert placed_ids(plan([job(2, 600), job(1, 600)], [], ROOMY)) == [1]


def test_a_job_that_fits_exactly_starts() -> None:
    assert placed_ids(plan([job(1, 1024)], [], ROOMY)) == [1]


def test_what_live_jobs_hold_is_not_free() -> None:
    decision = plan([job(1, 600)], [Resident(9, 500 * MiB, 1)], ROOMY)
    assert decision.waiting == {1: "needs 600 MiB, 524 MiB unreserved"}


def test_memory_of_others_is_named_when_it_is_what_keeps_a_job_waiting() -> None:
    capacity = Capacity(400 * MiB, used_by_others_bytes=624 * MiB, largest_bytes=GiB, threads=None)
    assert plan([job(1, 600)], [], capacity).waiting == {
        1: "needs 600 MiB, 400 MiB unreserved (624 MiB used by others)"
    }


def test_memory_of_others_is_not_blamed_when_it_would_not_be_enough() -> None:
    capacity = Capacity(924 * MiB, used_by_others_bytes=100 * MiB, largest_bytes=GiB, threads=None)
    waiting = plan([job(1, 900)], [Resident(9, 600 * MiB, 1)], capacity).waiting
    assert waiting == {1: "needs 900 MiB, 324 MiB unreserved"}


def test_overcommitted_memory_reads_as_none_free() -> None:
    decision = plan([job(1, 100)], [Resident(9, 2 * GiB, 1)], ROOMY)
    assert decision.waiting == {1: "needs 100 MiB, 0 B unreserved"}


@pytest.mark.parametrize(("threads", "words"), [(2, "needs 2 cores, 1 of 2 free"), (1, None)])
def test_cores_keep_a_job_waiting(threads: int, words: str | None) -> None:
    capacity = Capacity(GiB, 0, GiB, threads=2)
    assert plan([job(1, 10, threads=threads)], [Resident(9, MiB, 1)], capacity).waiting.get(1) == words


def test_cores_do_not_limit_jobs_on_a_gpu() -> None:
    assert placed_ids(plan([job(1, 10, threads=64), job(2, 10, threads=64)], [], ROOMY)) == [1, 2]


def test_a_job_waits_for_one_of_higher_priority_that_waits() -> None:
    live = [Resident(9, 512 * MiB, 1)]
    decision = plan([job(1, 900, priority=1), job(2, 10)], live, ROOMY)
    assert decision.placements == []
    assert decision.waiting == {1: "needs 900 MiB, 512 MiB unreserved", 2: "job 1 of higher priority comes first"}


def test_a_job_does_not_wait_for_an_impossible_one_of_higher_priority() -> None:
    assert placed_ids(plan([job(1, 2048, priority=1), job(2, 10)], [], ROOMY)) == [2]


def test_a_job_whose_memory_is_not_known_yet_holds_nobody_back() -> None:
    decision = plan([job(1, None, priority=1), job(2, 10)], [], ROOMY)
    assert placed_ids(decision) == [2]
    assert decision.waiting == {1: "its memory is being estimated"}


def test_a_job_larger_than_the_device_is_impossible_with_advice() -> None:
    assert plan([job(1, 1025)], [], ROOMY).impossible == {
        1: "needs 1.0 GiB, the device has 1.0 GiB at most; a smaller train.batch_size or model may fit"
    }


def test_a_job_that_only_others_keep_from_fitting_is_not_impossible() -> None:
    capacity = Capacity(0, used_by_others_bytes=GiB, largest_bytes=GiB, threads=None)
    assert plan([job(1, 1024)], [], capacity).impossible == {}


def test_a_job_of_more_cores_than_there_are_is_impossible() -> None:
    assert plan([job(1, 10, threads=3)], [], Capacity(GiB, 0, GiB, threads=2)).impossible == {
        1: "needs 3 cores, the device has 2"
    }


# -- a job whose memory is to be measured -----------------------------------------------------------------------


def unmeasured(job_id: int = 9, priority: int = 0) -> Candidate:
    return Candidate(job_id, priority, None, threads=1, alone=True)


def test_it_gets_the_whole_budget_when_nothing_else_runs() -> None:
    capacity = Capacity(budget_bytes=900 * MiB + 5, used_by_others_bytes=0, largest_bytes=GiB, threads=4)
    assert plan([unmeasured()], [], capacity).placements == [Placement(9, 900 * MiB)]


def test_it_waits_while_others_run_or_start() -> None:
    capacity = Capacity(budget_bytes=GiB, used_by_others_bytes=0, largest_bytes=GiB, threads=4)
    known = Candidate(1, 0, 100 * MiB, threads=1)
    for queue, live in (([unmeasured()], [Resident(2, 100 * MiB, 1)]), ([unmeasured(), known], [])):
        decision = plan(queue, live, capacity)
        assert 9 not in placed_ids(decision)
        assert decision.waiting[9] == "waits until nothing else runs: a few steps alone are to measure its memory"


def test_two_of_them_take_turns() -> None:
    capacity = Capacity(budget_bytes=GiB, used_by_others_bytes=0, largest_bytes=GiB, threads=4)
    assert placed_ids(plan([unmeasured(8), unmeasured(9)], [], capacity)) == [8]


def test_it_holds_back_only_jobs_of_lower_priority() -> None:
    capacity = Capacity(budget_bytes=GiB, used_by_others_bytes=0, largest_bytes=GiB, threads=4)
    equal, lower = Candidate(1, 1, 100 * MiB, threads=1), Candidate(2, 0, 100 * MiB, threads=1)
    decision = plan([unmeasured(priority=1), equal, lower], [Resident(5, 100 * MiB, 1)], capacity)
    assert placed_ids(decision) == [1]


def test_it_waits_while_others_have_all_memory() -> None:
    capacity = Capacity(budget_bytes=0, used_by_others_bytes=GiB, largest_bytes=GiB, threads=4)
    assert plan([unmeasured()], [], capacity).placements == []
