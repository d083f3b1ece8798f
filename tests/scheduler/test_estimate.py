"""How many bytes a job will need, and which jobs are alike."""

from pathlib import Path

import msgspec
import pytest
from builders import MiB, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.spec import Adam, Cosine, DataSpec, JobSpec, Sgd
from scheduler.estimate import Basis, Estimate, best, declared, grown, measured, modelled, signature

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
    found = best(spec(memory=memory), peak, traced)
    assert found is not None
    assert found.basis is basis


def test_a_job_nobody_knows_anything_about_has_no_estimate() -> None:
    assert best(spec(), None, None) is None


@pytest.mark.parametrize(("shortages", "reservation_mib"), [(0, 115), (1, 173), (2, 259)])
def test_each_shortage_in_a_row_makes_the_reservation_half_as_large_again(shortages: int, reservation_mib: int) -> None:
    assert grown(TRACED, shortages).reservation_bytes == reservation_mib * MiB


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
        {"train__checkpoint_every": "5m"},
        {"optimizer__lr": 0.9},
        {"optimizer__weight_decay": 0.1},
        {"schedule": Cosine()},
        {"resources__memory": "3 GiB"},
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
        {"data__limit": 5000},
        {"data__image_size": 64},
        {"data__augment": "hard3"},
        {"data": DataSpec(name="cifar10")},
        {"train__batch_size": 512},
        {"train__precision": "bf16"},
        {"optimizer": Adam()},
        {"optimizer": Sgd(momentum=0.0, nesterov=False)},
        {"resources__threads": 2},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_decides_memory_tells_jobs_apart(fields: dict[str, object]) -> None:
    assert signature(changed(**fields), "cpu") != signature(changed(), "cpu")


def test_devices_are_told_apart() -> None:
    assert signature(spec(), "cpu") != signature(spec(), "cuda")


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
