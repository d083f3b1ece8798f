"""`gpuq compare`: which figures of a job are told, and how."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from bench import RESULT
from builders import GiB, MiB, metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from steps import Queue

from jobs.run_dir import Metrics, Result, append_line, write_record
from scheduler.comparison import At, Comparison, ComparisonTable, as_csv, as_markdown, compare, comparison, show
from scheduler.errors import UnknownJobError
from scheduler.home import Home
from scheduler.states import Outcome

Compared = Callable[..., Comparison]

LINES = [metrics(1, accuracy=0.3), metrics(2, accuracy=0.6), metrics(3, accuracy=0.6), metrics(4, accuracy=0.5)]
FIGURES = ("parameters", "epoch", "step", "train_accuracy", "train_loss", "validation_accuracy", "validation_loss")
FIGURES += ("test_accuracy", "test_loss", "elapsed_s", "peak_bytes")


@pytest.fixture
def compared(queue: Queue) -> Compared:
    """The figures of a running job."""
    job = queue.store.job(queue.running())

    def figures(lines: Sequence[Metrics], result: Result | None = None, at: At = "best") -> Comparison:
        return comparison(job, lines, result, elapsed_s=40.0, peak_bytes=MiB, at=at)

    return figures


def row(**fields: Any) -> Comparison:
    values: dict[str, Any] = {"id": 7, "name": "resv1-easy", "network": "resv1", "state": "finished"}
    values |= {"outcome": "succeeded", "parameters": 1_234_567, "epoch": 37, "step": 14_430}
    values |= {"train_accuracy": 0.9801, "train_loss": 0.05, "validation_accuracy": 0.904, "validation_loss": 0.3}
    values |= {"test_accuracy": 0.89512, "test_loss": 0.31234, "elapsed_s": 5400.0, "peak_bytes": 3 * GiB}
    return Comparison(**(values | fields))


def waiting(**fields: Any) -> Comparison:
    return row(**({"state": "queued", "outcome": None} | dict.fromkeys(FIGURES) | fields))


def shown(rows: Sequence[Comparison], width: int = 200, *, styles: bool = False) -> str:
    console = Console(width=width, force_terminal=styles, color_system="standard" if styles else None)
    with console.capture() as captured:
        console.print(ComparisonTable(rows))
    return captured.get()


def test_by_default_training_and_validation_are_of_the_first_best_line(compared: Compared) -> None:
    figures = compared(LINES)
    assert (figures.epoch, figures.step, figures.validation_accuracy) == (2, 200, 0.6)


def test_at_the_last_they_are_of_the_last_line(compared: Compared) -> None:
    figures = compared(LINES, at="last")
    assert (figures.epoch, figures.step, figures.validation_accuracy) == (4, 400, 0.5)


@pytest.mark.parametrize("at", ["best", "last"])
def test_test_figures_are_the_results(compared: Compared, at: At) -> None:
    figures = compared(LINES, RESULT, at)
    assert (figures.test_accuracy, figures.test_loss) == (RESULT.test_accuracy, RESULT.test_loss)


def test_a_job_that_has_not_been_tested_has_no_test_figures(compared: Compared) -> None:
    figures = compared(LINES)
    assert (figures.test_accuracy, figures.test_loss) == (None, None)


def test_a_job_without_a_line_has_no_figures_of_training(compared: Compared) -> None:
    figures = compared([])
    assert (figures.epoch, figures.train_loss, figures.validation_accuracy) == (None, None, None)


def test_a_jobs_figures_are_read_from_its_store_and_run_directory(home: Home, queue: Queue) -> None:
    job_id = queue.running()
    queue.end(job_id, Outcome.SUCCEEDED, peak=3 * MiB)
    files = home.run_dir(job_id)
    files.create(queue.store.job(job_id).spec)
    for line in LINES:
        append_line(files.metrics, line)
    write_record(files.result, RESULT)
    [figures] = compare(home, [job_id])
    assert (figures.id, figures.outcome, figures.parameters) == (job_id, "succeeded", 1000)
    assert (figures.epoch, figures.test_accuracy, figures.peak_bytes) == (2, RESULT.test_accuracy, 3 * MiB)
    assert figures.elapsed_s is not None


def test_a_job_that_never_ran_is_there_with_what_it_has(home: Home, queue: Queue) -> None:
    [figures] = compare(home, [queue.submitted(name="late")])
    assert (figures.name, figures.state) == ("late", "queued")
    assert {name: getattr(figures, name) for name in FIGURES} == dict.fromkeys(FIGURES)


def test_jobs_come_in_the_order_they_were_named(home: Home, queue: Queue) -> None:
    first, second = queue.submitted(), queue.submitted()
    assert [figures.id for figures in compare(home, [second, first])] == [second, first]


def test_a_job_that_does_not_exist_is_refused(home: Home, queue: Queue) -> None:
    with pytest.raises(UnknownJobError):
        compare(home, [queue.submitted(), 99])


def test_a_row_of_the_table_is_a_jobs_figures_as_the_studies_print_them() -> None:
    line = shown([row()]).splitlines()[1]
    assert line.split() == [
        *("7", "resv1-easy", "resv1", "succeeded", "1,234,567", "37", "14430"),
        *("0.0500", "98.01", "0.3000", "90.40", "0.3123", "89.51", "1h", "30m", "3.0", "GiB"),
    ]


def test_what_a_job_does_not_have_yet_is_blank() -> None:
    assert shown([waiting(name="late")]).splitlines()[1].split() == ["7", "late", "resv1", "queued"]


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(60, 250), st.text("abc", min_size=1, max_size=100))
def test_whatever_the_terminals_width_nothing_but_a_name_is_cut(width: int, name: str) -> None:
    headings, figures = shown([row(name=name)], width).splitlines()[:2]
    assert max(len(headings), len(figures)) <= width
    assert "…" not in headings
    assert {"98.01", "90.40", "89.51"} < set(figures.split())


def test_a_name_is_whole_where_there_is_room() -> None:
    assert "a" * 60 in shown([row(name="a" * 60)], width=200)


def test_a_long_name_is_cut_short_before_a_column_is_left_out() -> None:
    long, short = (shown([row(name=name)], width=155).splitlines()[0].split() for name in ("a" * 60, "a"))
    assert long == short


def test_a_narrow_terminal_does_without_losses() -> None:
    headings = shown([row()], width=80).splitlines()[0].split()
    assert "Elapsed" in headings
    assert "loss" not in headings


def test_the_table_says_what_its_columns_are() -> None:
    assert "% is accuracy; Test is of the weights that did best on validation" in shown([row()])


def test_the_best_of_each_accuracy_is_bold_in_the_table() -> None:
    text = shown([row(), row(train_accuracy=0.5, test_accuracy=0.99)], styles=True)
    figures_in_bold = re.findall(r"\x1b\[1m *([0-9.]+)\x1b\[0m", text)
    assert figures_in_bold == ["98.01", "90.40", "90.40", "99.00"]


def markdown(*rows: Comparison) -> list[list[str]]:
    """The cells of the rows below the headings."""
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in as_markdown(rows).splitlines()[2:]]


def test_markdown_is_a_table_with_as_many_cells_in_every_row() -> None:
    lines = as_markdown([row(), waiting()]).splitlines()
    assert lines[0].startswith("| Id | Name | Network | State | Parameters |")
    assert lines[1].startswith("| ---: | :--- | :--- | :--- | ---: |")
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_the_best_of_each_accuracy_is_bold_in_markdown() -> None:
    first, second = markdown(row(), row(train_accuracy=0.5, test_accuracy=0.99))
    assert [cell for cell in first if "*" in cell] == ["**98.01**", "**90.40**"]
    assert [cell for cell in second if "*" in cell] == ["**90.40**", "**99.00**"]


def test_what_looks_alike_is_equally_good() -> None:
    first, second = markdown(row(test_accuracy=0.93101), row(test_accuracy=0.93099))
    assert ("**93.10**" in first, "**93.10**" in second) == (True, True)


def test_a_figure_that_only_one_job_has_is_not_the_best_of_anything() -> None:
    assert "*" not in as_markdown([row(), waiting()])


def test_a_bar_in_a_file_name_does_not_end_a_cell_of_markdown() -> None:
    assert r"| a\|b.py:build |" in as_markdown([row(network="/home/me/a|b.py:build")])


def test_csv_holds_the_records_as_they_are() -> None:
    rows = [row(network='/home/me/a,"b".py:build'), waiting()]
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    expected = [msgspec.structs.asdict(one) for one in rows]
    assert read == [{name: "" if value is None else str(value) for name, value in one.items()} for one in expected]


def test_lines_of_csv_end_as_those_of_other_commands_do() -> None:
    assert as_csv([row()]).count("\n") == 2
    assert "\r" not in as_csv([row()])


def test_json_has_the_same_names_as_csv_and_fractions_for_accuracies() -> None:
    read = msgspec.json.decode(msgspec.json.encode(row()))
    assert list(read) == as_csv([]).strip().split(",")
    assert read["test_accuracy"] == 0.89512


@pytest.mark.parametrize(("form", "text"), [("markdown", as_markdown([row()])), ("csv", as_csv([row()]))])
def test_a_form_to_copy_is_printed_as_it_is(form: Any, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    show([row()], form)
    assert capsys.readouterr().out == text


def test_without_a_form_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show([row()])
    assert "resv1-easy" in capsys.readouterr().out
