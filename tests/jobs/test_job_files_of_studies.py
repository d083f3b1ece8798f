"""Every job file that comes with gpuq is valid, and its network trains by its recipe."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from tiny import trainer

from augment.catalog import DATASETS
from jobs.job_file import read_job_files
from jobs.run_dir import RunDir, read_metrics
from jobs.spec import JobSpec, TrainSpec

ROOT = Path(__file__).parents[2]
JOBS = [
    pytest.param(spec, id=f"{path.relative_to(ROOT / 'jobs')}: {spec.name}")
    for path, spec in read_job_files(sorted((ROOT / "jobs").rglob("*.toml")))
]
STUDIES = {  # rows of each study's tables
    "alexnet-to-resnet": 6,
    "vgg": 7,
    "spirals": 7 + 4 + 8 + 2,
    "spirals/at-initialisation": 3 + 8,
    "resnet-plainnet": 7,
    "quickstart": 6,
    ".": 13,
}


def tiny(spec: JobSpec) -> JobSpec:
    """Two steps of the job on a few images, or on its points; a schedule counted in iterations stays so."""
    points = DATASETS[spec.data.name].points
    shapes = replace(spec.data, name="shapes", limit=20, split=(0.8, 0.1, 0.1), chunk_size=4, image_size=None)
    length = {"epochs": None, "iterations": 2, "evaluate_every": 2}
    schedule = replace(spec.schedule, warmup_epochs=0)
    diagnostics = replace(spec.diagnostics, landscape_grid=3)
    train = TrainSpec(batch_size=spec.train.batch_size if points else 4, seed=spec.train.seed, **length)
    return replace(spec, data=spec.data if points else shapes, train=train, schedule=schedule, diagnostics=diagnostics)


@pytest.mark.parametrize("spec", JOBS)
def test_it_trains_two_steps(spec: JobSpec, tmp_path: Path, cache_dir: Path) -> None:
    result = trainer(tiny(spec), tmp_path, cache_dir).run()
    assert result.steps == 2
    assert [line.step for line in read_metrics(RunDir(tmp_path).metrics)] == [2]


@pytest.mark.parametrize(("folder", "rows"), STUDIES.items())
def test_there_is_a_job_for_every_row_of_a_study(folder: str, rows: int) -> None:
    assert len(read_job_files(sorted((ROOT / "jobs" / folder).glob("*.toml")))) == rows
