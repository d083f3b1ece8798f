"""How many bytes a job will need, and which jobs are alike."""

from pathlib import Path

import msgspec
import pytest
from builders import MiB, spec
from hypothesis import given, settings
from hypothesis import strategies as st

import scheduler.estimate
from jobs.spec import Adam, AdamW, Cosine, DataSpec, DiagnosticsSpec, JobSpec, Sgd, TrainSpec
from scheduler.estimate import (
    Basis,
    Estimate,
    History,
    best,
    beyond,
    declared,
    measured,
    modelled,
    needed_at_least,
    shows_its_peak,
    signature,
)
from scheduler.margin import ENOUGH
from scheduler.states import Outcome

TRACED = modelled({"parameters": 10 * MiB, "activations": 90 * MiB}, parameters=2_500_000)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(size=st.integers(0, 1 << 42), margin=st.floats(0, 10))
def test_a_reservation_covers_the_estimate_in_whole_mib(size: int, margin: float) -> None:
    reservation = Estimate(bytes=size, basis=Basis.MODELLED, margin=margin).reservation_bytes
    needed = int(size * (1 + margin))
    assert reservation % MiB == 0
    assert needed <= reservation < needed + MiB


def test_a_declared_size_is_taken_at_its_word() -> None:
    assert declared(100 * MiB).reservation_bytes == 100 * MiB


def test_a_modelled_estimate_is_the_sum_of_its_parts_with_a_margin() -> None:
    assert (TRACED.bytes, TRACED.reservation_bytes, TRACED.basis) == (100 * MiB, 115 * MiB, Basis.MODELLED)


def test_a_measured_estimate_needs_a_smaller_margin() -> None:
    assert measured(100 * MiB).reservation_bytes == 110 * MiB


def test_a_measurement_keeps_what_was_traced_besides() -> None:
    corrected = measured(80 * MiB, TRACED)
    assert (corrected.components, corrected.parameters) == (TRACED.components, 2_500_000)


@pytest.mark.parametrize(
    ("memory", "peak", "traced", "basis"),
    [
        ("1 GiB", 50 * MiB, TRACED, Basis.DECLARED),
        (None, 50 * MiB, TRACED, Basis.MEASURED),
        (None, 50 * MiB, None, Basis.MEASURED),
        (None, None, TRACED, Basis.MODELLED),
    ],
)
def test_declared_comes_before_measured_before_modelled(
    memory: str | None, peak: int | None, traced: Estimate | None, basis: Basis
) -> None:
    history = History(peak_bytes={} if peak is None else {"like-this": peak})
    assert known(history, traced, memory).basis is basis


def test_a_job_nobody_knows_anything_about_has_no_estimate() -> None:
    assert best(spec(), "like-this", History(), None) is None


# -- what has been learned --------------------------------------------------------------------------------------


def known(history: History, traced: Estimate | None = TRACED, memory: str | None = None) -> Estimate:
    found = best(spec(memory=memory), "like-this", history, traced)
    assert found is not None
    return found


@pytest.mark.parametrize(("peaks", "basis"), [({}, Basis.MODELLED), ({"like-this": 80 * MiB}, Basis.MEASURED)])
def test_each_basis_has_a_margin_of_its_own_history(peaks: dict[str, int], basis: Basis) -> None:
    ratios = {Basis.MODELLED: [1.04] * ENOUGH, Basis.MEASURED: [1.03] * ENOUGH}
    margin = known(History(peak_bytes=peaks, ratios=ratios)).margin
    assert margin == pytest.approx(ratios[basis][0] - 1)


def test_a_declared_size_gets_no_margin_by_history() -> None:
    assert known(History(ratios={Basis.MODELLED: [1.4] * ENOUGH}), memory="1 GiB").margin == 0


def test_a_job_whose_like_ran_out_of_memory_gets_half_as_much_again() -> None:
    assert known(History(exceeded_bytes={"like-this": 120 * MiB})).reservation_bytes == 180 * MiB


def test_it_keeps_its_prediction_which_is_what_is_learned_from() -> None:
    estimate = known(History(exceeded_bytes={"like-this": 120 * MiB}))
    assert (estimate.bytes, estimate.basis) == (TRACED.bytes, Basis.MODELLED)


def test_less_than_the_prediction_was_not_what_was_too_little() -> None:
    """Somebody else's memory was in the way."""
    assert known(History(exceeded_bytes={"like-this": 99 * MiB})).reservation_bytes == 115 * MiB


@pytest.mark.parametrize(("peak_mib", "reservation_mib"), [(130, 143), (110, 180)])
def test_a_like_that_was_measured_to_need_more_than_that_is_believed_and_no_other(
    peak_mib: int, reservation_mib: int
) -> None:
    history = History(peak_bytes={"like-this": peak_mib * MiB}, exceeded_bytes={"like-this": 120 * MiB})
    assert known(history).reservation_bytes == reservation_mib * MiB


@pytest.mark.parametrize(("exceeded_mib", "reservation_mib"), [(None, 115), (115, 173), (173, 260)])
def test_a_reservation_is_half_as_large_again_as_the_last_that_was_not_enough(
    exceeded_mib: int | None, reservation_mib: int
) -> None:
    exceeded = None if exceeded_mib is None else exceeded_mib * MiB
    assert beyond(TRACED, exceeded).reservation_bytes == reservation_mib * MiB


# -- what an attempt tells --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "start_step", "last_step", "shows"),
    [
        (Outcome.SUCCEEDED, 0, 1, False),
        (Outcome.SUCCEEDED, 0, 2, True),
        (Outcome.SUCCEEDED, 300, 400, True),
        (Outcome.SUCCEEDED, 400, 400, False),
        (Outcome.CANCELLED, 0, 100, True),
        (Outcome.LOST, 300, 302, True),
        (Outcome.LOST, 300, 301, False),
        (Outcome.FAILED, 0, 0, False),
        (Outcome.FAILED, None, 300, False),
    ],
)
def test_an_attempt_shows_its_peak_when_it_was_evaluated_after_two_steps(
    outcome: Outcome, start_step: int | None, last_step: int, shows: bool
) -> None:
    assert shows_its_peak(spec(), outcome, start_step, last_step) is shows


@pytest.mark.parametrize(("last_step", "shows"), [(109, False), (110, True)])
def test_or_after_as_many_as_its_worker_says_even_if_it_has_trained_to_its_end(last_step: int, shows: bool) -> None:
    assert shows_its_peak(spec(), Outcome.SUCCEEDED, 100, last_step, steps_to_peak=10) is shows


@pytest.mark.parametrize(("outcome", "shows"), [(Outcome.CANCELLED, False), (Outcome.SUCCEEDED, True)])
def test_with_a_landscape_to_come_the_peak_is_not_known_before_the_end(outcome: Outcome, shows: bool) -> None:
    job = changed(diagnostics=DiagnosticsSpec(landscape=True))
    assert shows_its_peak(job, outcome, 100, 200) is shows


@pytest.mark.parametrize(
    ("held", "requested", "needed"),
    [(90, 20, 100), (110, None, 110), (60, 20, 80), (60, None, 60), (0, None, None)],
    ids=["stopped by its cap", "seen beyond it", "stopped by others", "not told how much", "nothing known"],
)
def test_running_out_of_memory_tells_what_was_needed_at_least(
    held: int, requested: int | None, needed: int | None
) -> None:
    assert needed_at_least(100, held, requested) == needed


# -- which jobs are alike ---------------------------------------------------------------------------------------


def changed(**fields: object) -> JobSpec:
    """The usual job, with dotted keys changed."""
    job = spec(options={"width": 32})
    for key, value in fields.items():
        section, _, field = key.partition("__")
        if field:
            value = msgspec.structs.replace(getattr(job, section), **{field: value})
        job = msgspec.structs.replace(job, **{section: value})
    return job


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "another"},
        {"priority": 9},
        {"train__seed": 7},
        {"train__epochs": 3},
        {"train": TrainSpec(iterations=300)},
        {"train__evaluate_every": 100},
        {"train__checkpoint_every": "5m"},
        {"data__mean": (0.5, 0.5, 0.5)},
        {"data__std": (0.2, 0.2, 0.2)},
        {"data__pixel_range": 255},
        {"optimizer__lr": 0.9},
        {"optimizer__nesterov": False},
        {"schedule": Cosine()},
        {"resources__memory": "3 GiB"},
        {"diagnostics__gradient_flow": True},
        {"diagnostics__landscape_grid": 51},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_does_not_decide_memory_leaves_jobs_alike(fields: dict[str, object]) -> None:
    assert signature(changed(**fields), "cpu") == signature(changed(), "cpu")


@pytest.mark.parametrize(
    "fields",
    [
        {"model__name": "bn4"},
        {"model__options": {"width": 64}},
        {"data__split": (0.5, 0.25, 0.25)},
        {"data__limit": 5000},
        {"data__image_size": 64},
        {"data__augment": "hard3"},
        {"data__chunk_size": 64},
        {"data": DataSpec(name="cifar10")},
        {"train__batch_size": 512},
        {"train__precision": "bf16"},
        {"optimizer": Adam()},
        {"optimizer": Sgd(momentum=0.0, nesterov=False)},
        {"optimizer__weight_decay": 0.1},
        {"diagnostics__landscape": True},
        {"resources__threads": 2},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_decides_memory_tells_jobs_apart(fields: dict[str, object]) -> None:
    assert signature(changed(**fields), "cpu") != signature(changed(), "cpu")


def test_devices_are_told_apart() -> None:
    assert signature(spec(), "cpu") != signature(spec(), "cuda")


def test_threads_are_the_cpus_alone() -> None:
    assert signature(spec(threads=1), "cuda") == signature(spec(threads=2), "cuda")


def test_adam_and_adamw_keep_the_same() -> None:
    assert signature(changed(optimizer=Adam()), "cpu") == signature(changed(optimizer=AdamW()), "cpu")


def test_where_the_data_lie_matters_only_to_data_that_lie_somewhere() -> None:
    drawn, lying = (
        [DataSpec(name=name, root=root) for root in ("~/here", "~/there")] for name in ("shapes", "cifar10")
    )
    assert len({signature(changed(data=data), "cpu") for data in drawn}) == 1
    assert len({signature(changed(data=data), "cpu") for data in lying}) == 2


def test_the_images_of_a_landscape_matter_when_there_is_one() -> None:
    few = [DiagnosticsSpec(landscape=wanted, landscape_images=100) for wanted in (False, True)]
    all_of_them = [DiagnosticsSpec(landscape=wanted) for wanted in (False, True)]
    same = [signature(changed(diagnostics=one), "cpu") for one in few]
    others = [signature(changed(diagnostics=one), "cpu") for one in all_of_them]
    assert (same[0] == others[0], same[1] == others[1]) == (True, False)


def test_another_torch_is_another_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signature(spec(), "cpu")
    monkeypatch.setattr(scheduler.estimate, "_torch_version", lambda: "99.0")
    assert signature(spec(), "cpu") != before


def test_the_order_of_options_does_not_matter() -> None:
    first, second = {"width": 8, "blocks": [1, 1]}, {"blocks": [1, 1], "width": 8}
    assert signature(spec(options=first), "cpu") == signature(spec(options=second), "cpu")


def test_a_users_network_counts_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    job = spec(network=f"{file}:build")
    signatures = []
    for content in ("width = 8", "width = 9", "width = 8"):
        file.write_text(content)
        signatures.append(signature(job, "cpu"))
    assert signatures[0] == signatures[2] != signatures[1]


def test_a_users_network_that_is_gone_is_no_obstacle_here(tmp_path: Path) -> None:
    """Tracing will say so of this job; the rest of the queue goes on."""
    assert signature(spec(network=f"{tmp_path}/gone.py:build"), "cpu")
