"""Configurations to try estimates on, drawn by a seed: network × data × augmentation × batch × optimizer × precision.

The constants of `jobs.estimator` are fitted to other networks (`FITTED`) than those that they are tried on (`TRIED`).
Each is a job as short as its peak allows: two steps after the second chunk of images was augmented, one evaluation.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

CLASSES, IMAGES_PER_CLASS, IMAGE_SIZE = 4, 150, 96  # of the folder of images that is made for the larger sizes
AFTER_PEAK = 2  # steps
REDRAWS = 30  # of a network's job, until one is affordable


@dataclass(frozen=True)
class Choice:
    """A network and the options it is drawn with."""

    family: str
    name: str
    options: tuple[dict[str, Any], ...] = ({},)


@dataclass(frozen=True)
class Ranges:
    """What is drawn from besides the networks, for a kind of device."""

    image_sizes: tuple[int | None, ...]  # None: `shapes`, of 32 × 32 pixels
    shapes: tuple[int, ...]  # how many
    batches: tuple[int, ...]
    chunks: tuple[int, ...]
    precisions: tuple[str, ...]
    most_macs: float  # of a job: multiply-accumulates of the steps that it trains


RANGES = {
    "cpu": Ranges(
        (None, None, 48, 64), (500, 1500, 5000), (16, 32, 64, 128, 256), (256, 1024), ("fp32", "bf16"), 1.3e11
    ),
    "cuda": Ranges(
        (None, None, 96, 224), (500, 1500, 5000), (32, 64, 128, 256, 512), (1024, 4096), ("bf16", "bf16", "fp32"), 2e13
    ),
}
POLICIES = ("none", "crop-flip", "easy", "hard2", "hard3")
OPTIMIZERS = (
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.0, "nesterov": False},
    {"name": "sgd", "weight_decay": 5e-4},
    {"name": "adam"},
    {"name": "adamw"},
)
NARROW = ({"width": 4}, {"width": 6}, {"width": 8})
TRIED = (
    Choice("plain", "alexnet", ({}, {"width": 32})),
    Choice("plain", "vggnet", NARROW),
    Choice("plain", "vggnet-bn", NARROW),
    Choice("plain", "deep-vggnet-bn", NARROW),
    Choice("plain", "cnn", ({}, {"width": 64})),
    Choice("plain", "baseline-large", ({}, {"width": 16})),
    Choice("plain", "plainnet-20", ({}, {"width": 24})),
    Choice("plain", "plainnet-56", ({"width": 8}, {})),
    Choice("vgg", "vgg08", ({}, {"bn": True}, {"bn": True, "rc": True})),
    Choice("vgg", "vgg38", ({}, {"bn": True}, {"bn": True, "rc": True, "down_skip": "conv"})),
    Choice("residual", "resnet", NARROW),
    Choice("residual", "resnet-deeper", NARROW),
    Choice("residual", "resnet-20", ({}, {"width": 24})),
    Choice("residual", "resnet-56", ({"width": 8}, {})),
    Choice("mlp", "mlp", ({}, {"width": 256}, {"width": 1024, "depth": 4})),
    Choice("mlp", "mlp-plain", ({"width": 128}, {"width": 512})),
    Choice("mlp", "mlp-residual", ({"width": 128}, {"width": 512})),
    Choice("torchvision", "torchvision:resnet18"),
    Choice("torchvision", "torchvision:mobilenet_v3_small"),
    Choice("torchvision", "torchvision:shufflenet_v2_x1_0"),
    Choice("torchvision", "torchvision:squeezenet1_1"),
    Choice("torchvision", "torchvision:densenet121"),
    Choice("torchvision", "torchvision:efficientnet_b0"),
    Choice("torchvision", "torchvision:mnasnet0_5"),
    Choice("attention", "torchvision:swin_t"),
    Choice("attention", "torchvision:convnext_tiny"),
    Choice("attention", "torchvision:vit_b_16"),
)
BLOCK_STUDY = [
    "baseline-130k",
    "baseline-430k",
    "resv1",
    "bn4",
    "bn8",
    "deb",
    "hwyv1",
    "hwyv2",
    "bv1",
    "bv2",
    "bnv1",
    "bnv2",
]
SMALL = [
    "resnet34",
    "mobilenet_v2",
    "regnet_y_400mf",
    "shufflenet_v2_x0_5",
    "mobilenet_v3_large",
    "densenet169",
    "mnasnet1_0",
]
LARGE = ["resnet50", "wide_resnet50_2", "vgg11", "vgg11_bn", "alexnet", "vit_b_32", "convnext_small", "swin_v2_t"]
FITTED = (
    *(Choice("block study", name, ({}, {"width": 8}, {"width": 16})) for name in BLOCK_STUDY),
    *(Choice("small", f"torchvision:{name}") for name in SMALL),
    *(Choice("large", f"torchvision:{name}") for name in LARGE),
    Choice(
        "linear",
        f"{Path(__file__).with_name('perceptron.py')}:perceptron",
        tuple({"width": 64 << n} for n in (0, 3, 5)),
    ),
)


@dataclass(frozen=True)
class Configuration:
    """A drawn job: its file's text."""

    name: str
    family: str
    toml: str

    def write(self, folder: Path) -> Path:
        file = folder / f"{self.name}.toml"
        file.write_text(self.toml)
        return file


def draw(count: int, seed: int, kind: str, images: Path, choices: Sequence[Choice] = TRIED) -> list[Configuration]:
    """Different configurations for a kind of device, of each family in turn; `images` is where `make_images` put them.

    The first ones of a seed are the same however many are drawn.
    """
    return list(islice(_drawn(random.Random(seed), RANGES[kind], images, choices), count))


def _drawn(random_: random.Random, ranges: Ranges, images: Path, choices: Sequence[Choice]) -> Iterator[Configuration]:
    known: set[str] = set()
    for choice in _in_turn(random_, choices):
        for _ in range(REDRAWS):
            toml = as_toml(job := _job(random_, choice, ranges, images))
            if toml not in known and _is_affordable(job, ranges.most_macs):
                name = f"{len(known):02d}-{choice.name.rpartition(':')[2]}"
                known.add(toml)
                yield Configuration(name, choice.family, f'name = "{name}"\n{toml}')
                break


def _in_turn(random_: random.Random, choices: Sequence[Choice]) -> Iterator[Choice]:
    """One of each family in turn, without end; within a family each comes once before any comes twice."""
    decks: dict[str, list[Choice]] = {choice.family: [] for choice in choices}
    for family, deck in cycle(decks.items()):
        if not deck:
            deck += random_.sample(members := [one for one in choices if one.family == family], len(members))
        yield deck.pop()


def as_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of plain values: as JSON these are TOML, too."""
    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )


def _job(random_: random.Random, choice: Choice, ranges: Ranges, images: Path) -> dict[str, Any]:
    """A job file's tables, but for the name."""
    options = dict(random_.choice(choice.options))
    size = random_.choice(ranges.image_sizes)
    batch, chunk = random_.choice(ranges.batches), random_.choice(ranges.chunks)
    if choice.family == "mlp" and random_.random() < 0.5:
        data: dict[str, Any] = {"name": "spirals", "augment": "none"}
        labelled, chunk = 1000, 1000
    elif size is None:
        labelled = random_.choice(ranges.shapes)
        data = {"name": "shapes", "limit": labelled, "augment": random_.choice(POLICIES), "chunk_size": chunk}
    else:
        labelled = CLASSES * IMAGES_PER_CLASS
        data = {"name": "imagefolder", "root": str(images), "image_size": size}
        data |= {"augment": random_.choice(POLICIES), "chunk_size": chunk}
    if choice.name.startswith("torchvision:vit"):
        options["image_size"] = size or 32
    trained = labelled * 8 // 10  # the rest is held out
    batch = min(batch, trained)
    steps = peak_steps(trained, batch, chunk)
    return {
        "model": {"name": choice.name, **options},
        "data": data,
        "train": {
            "iterations": steps,
            "evaluate_every": steps,
            "batch_size": batch,
            "precision": random_.choice(ranges.precisions),
            "checkpoint_every": "1h",
        },
        "optimizer": {**random_.choice(OPTIMIZERS), "lr": 1e-4},
        "schedule": {"name": "constant"},
    }


def peak_steps(images: int, batch_size: int, chunk_size: int) -> int:
    """Steps of a training until its peak is past: the second chunk is made beside all that lasts, be it the next
    epoch's first.
    """
    return min(max(1, chunk_size // batch_size), -(-images // batch_size)) + AFTER_PEAK


def _is_affordable(job: dict[str, Any], most_macs: float) -> bool:
    """Whether the network takes such samples, and a job of it so few multiply-accumulates."""
    model = dict(job["model"])
    size = job["data"].get("image_size", 32)
    shape, classes = ((2,), 2) if job["data"]["name"] == "spirals" else ((3, size, size), 10)
    macs = _macs(model.pop("name"), json.dumps(model), shape, classes)
    trained = job["train"]["iterations"] * job["train"]["batch_size"]
    return macs is not None and 3 * macs * trained <= most_macs  # backward is twice forward


@cache
def _macs(name: str, options: str, input_shape: tuple[int, ...], classes: int) -> int | None:
    """Of one sample forward; where there are linear layers, at least the parameters. None: the network refuses it."""
    import torch

    import models.registry
    from models.macs import convolution_macs, count_parameters

    try:
        with torch.device("meta"):
            network = models.registry.build(name, json.loads(options), input_shape=input_shape, classes=classes)
        return max(convolution_macs(network, input_shape), count_parameters(network))
    except Exception:  # whatever a network raises at samples it was not made for
        return None


def make_images(folder: Path) -> Path:
    """A folder of images of noise, in classes."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class-{label}").mkdir(parents=True)
        for number in range(IMAGES_PER_CLASS):
            pixels = noise.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class-{label}" / f"{number}.jpg")
    return folder
