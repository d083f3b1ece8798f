"""Where gpuq keeps its state."""

from pathlib import Path

import pytest

from jobs.errors import InputError
from scheduler.home import Home, default_home


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GPUQ_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_it_is_in_the_users_data_directory_by_default(tmp_path: Path) -> None:
    assert default_home().path == tmp_path / ".local/share/gpuq"


def test_it_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_home().path == Path("/data/gpuq")


@pytest.mark.parametrize("chosen", ["{home}/queue", "~/queue", "queue"])
def test_gpuq_home_wins_and_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chosen: str) -> None:
    """A dispatcher in the background has another working directory."""
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("GPUQ_HOME", chosen.format(home=tmp_path))
    assert default_home().path == tmp_path / "queue"


@pytest.mark.parametrize("name", ["GPUQ_HOME", "XDG_DATA_HOME"])
def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv(name, "")
    assert default_home().path == tmp_path / ".local/share/gpuq"


def test_it_is_its_owners_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "new" / "home").create()
    assert home.path.stat().st_mode & 0o777 == 0o700


def test_making_it_twice_is_harmless(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").create()
    home.store.write_text("precious")
    assert home.create().store.read_text() == "precious"


def test_a_jobs_run_directory_is_named_by_its_id(home: Home) -> None:
    assert home.run_dir(7).path == home.path / "runs" / "7"


def test_a_path_that_is_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"GPUQ_HOME: expected a path in UTF-8, got '.*\\udcff'"):
        Home(tmp_path / "\udcff").create()
