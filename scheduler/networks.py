"""`gpuq models`: what can be named in a job file."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct


class NetworkFacts(Struct, frozen=True, kw_only=True):
    """A network at its default size on `input_shape` and `classes`: 32×32 RGB images of ten, or points of two."""

    name: str
    family: str
    input_shape: tuple[int, ...]
    classes: int
    parameters: int
    block_macs: int
    options: dict[str, Any]  # what its builder takes, with the defaults
    summary: str


def describe_networks() -> list[NetworkFacts]:
    """Build every network on the meta device, which costs no memory, and count."""
    import torch

    from models.macs import block_macs, count_parameters
    from models.registry import build, listed

    facts = []
    for network in listed():
        with torch.device("meta"):
            built = build(network.name, {}, input_shape=network.input_shape, classes=network.classes)
        facts.append(
            NetworkFacts(
                name=network.name,
                family=network.family,
                input_shape=network.input_shape,
                classes=network.classes,
                parameters=count_parameters(built),
                block_macs=block_macs(built, network.input_shape),
                options=msgspec.structs.asdict(network.options()),
                summary=network.summary,
            )
        )
    return facts


def show_networks(networks: Sequence[NetworkFacts]) -> None:
    from rich.table import Table

    from models.registry import FAMILIES
    from scheduler import render

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Name")
    table.add_column("Family")
    table.add_column("Parameters", justify="right")
    table.add_column("Block MACs", justify="right")
    table.add_column("What")
    table.add_column("Options", overflow="fold")
    for network in networks:
        macs = f"{network.block_macs:,}" if network.block_macs else ""
        options = ", ".join(f"{name} = {json.dumps(value)}" for name, value in network.options.items())
        table.add_row(network.name, network.family, f"{network.parameters:,}", macs, network.summary, options)
    out = render.console()
    out.print(table)
    families = " and ".join(FAMILIES)
    out.print(f"\n{families} for any N = 6n + 2", style="dim")
    on_points = ", ".join(network.name for network in networks if len(network.input_shape) == 1)
    out.print(f"counted on 32×32 RGB images of 10 classes; {on_points} on points of 2", style="dim")
    out.print("also torchvision:NAME (its classifiers) and path/to/file.py:function", style="dim")
