"""The command line. A command imports what it needs when it runs: people wait for `gpuq status`."""

import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from jobs.errors import GpuqError
from scheduler.cli_diagnostics import compare, plot, probe
from scheduler.cli_options import (
    current_home,
    device_option,
    files_argument,
    ids_argument,
    json_option,
    max_failures_option,
    memory_option,
    print_json,
    some_ids_argument,
)
from scheduler.cli_types import Duration, JobId, as_ranges, flatten
from scheduler.errors import REBUILD, StoreFullError, is_damage, is_full
from scheduler.home import default_home

EXIT_CTRL_C = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gpuq-night", prog_name="gpuq")
def cli() -> None:
    """Train many models unattended on one GPU, packed by a memory prediction made before they run.

    State lives in $GPUQ_HOME, by default under the XDG data directory. Exit codes: 0 done; 1 a job or the request
    failed; 2 wrong usage or bad input; 130 Ctrl-C.
    """


@cli.command()
@files_argument
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print the ids alone, one a line.")
@click.option("--no-start", is_flag=True, help="Only queue; do not start the dispatcher.")
@device_option
@memory_option
@max_failures_option
def submit(
    files: tuple[Path, ...],
    as_json: bool,
    quiet: bool,
    no_start: bool,
    device: str,
    memory: int | None,
    max_failures: int | None,
) -> None:
    """Queue the jobs of TOML files, all or none, and see to it that a dispatcher runs."""
    from scheduler.submission import submit_files

    _require_usable(device, memory)
    submitted = submit_files(
        current_home(), files, start=not no_start, device=device, memory_bytes=memory, max_failures=max_failures
    )
    if as_json:
        print_json(submitted)
    elif quiet:
        click.echo("\n".join(str(job.id) for job in submitted.jobs))
    else:
        click.echo(submitted.in_words())


@cli.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@device_option
@memory_option
@max_failures_option
@click.pass_context
def run(ctx: click.Context, files: tuple[Path, ...], device: str, memory: int | None, max_failures: int | None) -> None:
    """Queue the jobs of TOML files and run them in the foreground, with a live table.

    Ends when these jobs have ended or are paused; exit code 0 only if all succeeded. Without files, runs what is queued
    already. Ctrl-C stops cleanly: jobs write a checkpoint and are queued again.
    """
    from scheduler.foreground import run_files

    home = current_home()
    ctx.exit(run_files(home, files, device=device, memory_bytes=memory, max_failures=max_failures))


@cli.command()
@some_ids_argument
@json_option
@device_option
@memory_option
def status(ids: tuple[range, ...], as_json: bool, device: str, memory: int | None) -> None:
    """Show the device and all jobs; with ids, all about these."""
    from scheduler import overview

    home = current_home()
    told = overview.look(home, flatten(ids) or None, device, memory)
    if as_json:
        print_json(told)
    else:
        overview.show(home, told, detailed=bool(ids))


@cli.command()
@click.argument("job_id", type=JobId(), metavar="ID")
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the job has ended.")
def logs(job_id: int, follow: bool) -> None:
    """Print what a job's workers have printed."""
    from scheduler.requests import print_log

    print_log(current_home(), job_id, follow=follow)


@cli.command()
@ids_argument
def cancel(ids: tuple[range, ...]) -> None:
    """End jobs for good. A running one writes a checkpoint first, so that `gpuq retry` can go on from there."""
    from scheduler.requests import cancel_jobs

    for line in cancel_jobs(current_home(), flatten(ids)):
        click.echo(line)


@cli.command()
@ids_argument
@click.option("--no-start", is_flag=True, help="Only queue; do not start the dispatcher.")
@device_option
@memory_option
def retry(ids: tuple[range, ...], no_start: bool, device: str, memory: int | None) -> None:
    """Queue jobs again that ended without success; they go on from their last checkpoint."""
    from scheduler.requests import retry_jobs

    _require_usable(device, memory)
    home = current_home()
    retried, started = retry_jobs(home, flatten(ids), start=not no_start, device=device, memory_bytes=memory)
    click.echo(f"queued again: {as_ranges(retried)}")
    if started is not None:
        click.echo(f"dispatcher started (pid {started}), log: {home.dispatcher_log}")


@cli.command()
@some_ids_argument
@click.option("--all", "whole_queue", is_flag=True, help="The whole queue, with what is submitted later.")
def pause(ids: tuple[range, ...], whole_queue: bool) -> None:
    """Hold jobs, or the whole queue. A running one writes a checkpoint, and frees its memory."""
    from scheduler import pausing

    home = current_home()
    told = pausing.pause_queue(home) if _is_all(ids, whole_queue) else pausing.pause_jobs(home, flatten(ids))
    for line in told:
        click.echo(line)


@cli.command()
@some_ids_argument
@click.option("--all", "whole_queue", is_flag=True, help="The whole queue; jobs paused by id stay so.")
@click.option("--no-start", is_flag=True, help="Only resume; do not start the dispatcher.")
@device_option
@memory_option
def resume(ids: tuple[range, ...], whole_queue: bool, no_start: bool, device: str, memory: int | None) -> None:
    """Have paused jobs, or the whole paused queue, go on from their last checkpoints."""
    from scheduler import pausing

    _require_usable(device, memory)
    home = current_home()
    told = pausing.resume_queue(home) if _is_all(ids, whole_queue) else pausing.resume_jobs(home, flatten(ids))
    for line in told:
        click.echo(line)
    started = None if no_start else pausing.start_if_needed(home, device, memory)
    if started is not None:
        click.echo(f"dispatcher started (pid {started}), log: {home.dispatcher_log}")


def _require_usable(device: str, memory: int | None) -> None:
    """Refuse before anything is done what a dispatcher in the background would tell its log alone, and leave."""
    if device != "auto" or memory is not None:  # these suit every machine: no driver need be asked
        from scheduler.device import choose_device

        choose_device(device, memory)


def _is_all(ids: tuple[range, ...], whole_queue: bool) -> bool:
    if whole_queue == bool(ids):
        raise click.UsageError("expected ids of jobs, or --all")
    return whole_queue


@cli.command()
@ids_argument
@click.pass_context
def wait(ctx: click.Context, ids: tuple[range, ...]) -> None:
    """Wait until jobs have ended; exit code 0 only if all succeeded."""
    from scheduler.requests import wait_for

    ctx.exit(0 if wait_for(current_home(), flatten(ids)) else 1)


@cli.command()
@json_option
def models(as_json: bool) -> None:
    """List the networks: name, family, parameters, and the multiply-accumulates of their blocks."""
    from scheduler.networks import describe_networks, show_networks

    networks = describe_networks()
    if as_json:
        print_json({"models": networks})
    else:
        show_networks(networks)


@cli.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--check", type=JobId(), metavar="ID", help="Compare a job's estimate with what it really used.")
@json_option
@device_option
@memory_option
@click.pass_context
def estimate(
    ctx: click.Context, files: tuple[Path, ...], check: int | None, as_json: bool, device: str, memory: int | None
) -> None:
    """Predict the memory of the jobs of TOML files, without running or queueing them.

    Tells what takes it, and the largest batch size with which a job would fit the device alone.
    """
    if (check is None) == (not files):
        raise click.UsageError("expected job files, or --check and a job's id")
    if check is not None:
        _check_estimate(check, as_json)
        return
    from scheduler.forecast import forecast_files

    outlook = forecast_files(current_home(), files, device, memory)
    if as_json:
        print_json({"estimates": outlook.forecasts})
    else:
        from scheduler.forecast_view import show

        show(outlook)
    ctx.exit(1 if any(forecast.error for forecast in outlook.forecasts) else 0)


def _check_estimate(job_id: int, as_json: bool) -> None:
    from scheduler.check import check_job, show

    told = check_job(current_home(), job_id)
    if as_json:
        print_json({"check": told})
    else:
        show(told)


@cli.command()
@click.option("--foreground", is_flag=True, help="Stay in this terminal; for a service manager.")
@device_option
@memory_option
@max_failures_option
def start(foreground: bool, device: str, memory: int | None, max_failures: int | None) -> None:
    """Start the dispatcher. It leaves when there has been nothing to do for a minute."""
    home = current_home()
    if foreground:
        from scheduler.service import serve_queue

        serve_queue(home, device, memory, max_failures)
        return
    from scheduler.background import ensure_dispatcher
    from scheduler.store import Store

    _require_usable(device, memory)
    pid, started = ensure_dispatcher(home, Store(home.store), device, memory, max_failures)
    log = f", log: {home.dispatcher_log}"
    click.echo(f"dispatcher {'started' if started else 'is running already'} (pid {pid}){log if started else ''}")


@cli.command()
def stop() -> None:
    """Stop the dispatcher: running jobs write a checkpoint and are queued again."""
    from scheduler.background import running_dispatcher, stop_dispatcher
    from scheduler.store import Store

    store = Store(current_home().store)
    dispatcher = running_dispatcher(store)
    if dispatcher is None:
        click.echo("no dispatcher is running")
        return
    stop_dispatcher(dispatcher)
    left = as_ranges(job.id for job in store.startable())
    click.echo("dispatcher stopped" + (f"; queued, for `gpuq start` to go on with: {left}" if left else ""))


@cli.command()
@some_ids_argument
@click.option("--older-than", "older_than_s", type=Duration(), help="Those that ended so long ago, such as 30d.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def clean(ids: tuple[range, ...], older_than_s: float | None, dry_run: bool) -> None:
    """Remove finished jobs with their run directories, by id or age, and what killed processes left behind."""
    from scheduler import cleaning
    from scheduler.store import Store

    home = current_home()
    store = Store(home.store, even_if_full=True)
    chosen = cleaning.choose(store, flatten(ids) or None, older_than_s)
    cleaned = cleaning.clean(home, store, chosen, dry_run=dry_run)
    click.echo(cleaned.in_words("would remove" if dry_run else "removed"))


@cli.command()
@click.option("--calibrate", is_flag=True, help="First measure the constants of the GPU, and keep them.")
@click.option("--rebuild", is_flag=True, help="First restore a damaged store from the run directories.")
@json_option
@device_option
@click.pass_context
def doctor(ctx: click.Context, calibrate: bool, rebuild: bool, as_json: bool, device: str) -> None:
    """Check that gpuq can work here, and say what to do where it cannot."""
    from scheduler import doctor as doctors
    from scheduler.device import choose_device

    home, chosen = current_home(), choose_device(device)
    if rebuild:
        from scheduler import rebuild as rebuilding

        for line in rebuilding.rebuild(home).in_words():
            click.echo(line, err=as_json)
    if calibrate:
        doctors.calibrate(home, chosen)
    checks = doctors.examine(home, chosen)
    is_right = all(check.is_right for check in checks)
    if as_json:
        print_json({"ok": is_right, "checks": checks})
    else:
        doctors.show(checks)
    ctx.exit(0 if is_right else 1)


for diagnostic in (probe, plot, compare):
    cli.add_command(diagnostic)


def _of_store(error: sqlite3.Error) -> str:
    if is_full(error):
        return str(StoreFullError(default_home().store))
    return f"the store cannot be used now: {error}" + (f"; {REBUILD}" if is_damage(error) else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; whatever goes wrong becomes one line and an exit code."""
    try:
        code = cli.main(arguments, prog_name="gpuq", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_CTRL_C
    except GpuqError as error:
        click.echo("\n".join(f"gpuq: {line}" for line in str(error).splitlines()), err=True)
        code = error.exit_code
    except sqlite3.Error as error:
        click.echo(f"gpuq: {_of_store(error)}", err=True)
        code = 1
    except BrokenPipeError:  # whoever read our output has enough
        code = 0
    except OSError as error:
        click.echo(f"gpuq: {error.filename or 'system'}: {error.strerror}", err=True)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
