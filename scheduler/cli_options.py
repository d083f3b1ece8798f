"""What the commands share: arguments, options, the state directory, JSON."""

from pathlib import Path

import click

from scheduler.cli_types import JobIds, Memory
from scheduler.home import Home, default_home

files_argument = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
ids_argument = click.argument("ids", nargs=-1, required=True, type=JobIds(), metavar="ID...")
some_ids_argument = click.argument("ids", nargs=-1, type=JobIds(), metavar="[ID...]")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON alone on stdout.")
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="auto, cpu, cuda or cuda:INDEX; auto is the first GPU, else the CPU.",
)
memory_option = click.option("--memory", type=Memory(), help="The CPU device's budget, such as 6GiB.")
max_failures_option = click.option(
    "--max-failures",
    type=click.IntRange(min=1),
    metavar="N",
    help="Pause the queue once N jobs have failed; running ones go on.",
)


def current_home() -> Home:
    """The state directory, made if there is none."""
    return default_home().create()


def print_json(value: object) -> None:
    """Records as JSON, on stdout, alone."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
