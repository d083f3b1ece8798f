"""What a job may say about a registered network, and how it is refused."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from models.errors import ModelError, OptionError, UnknownNetworkError
from models.registry import NETWORKS, check, find, options_type, parse_options


def test_the_studies_networks_are_registered() -> None:
    baselines = ["baseline-130k", "baseline-430k", "baseline-large"]
    branches = ["bv1", "bv2", "bnv1", "bnv2"]
    block_study = [*baselines, "resv1", "bn4", "bn8", "deb", "hwyv1", "hwyv2", *branches]
    from_alexnet = ["alexnet", "vggnet", "vggnet-bn", "deep-vggnet-bn", "resnet", "resnet-deeper"]
    perceptrons = ["mlp", "mlp-plain", "mlp-residual"]
    assert list(NETWORKS) == [*block_study, *from_alexnet, "vgg08", "vgg38", "cnn", *perceptrons]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_option_has_a_default_and_cannot_be_changed_afterwards(name: str) -> None:
    options = NETWORKS[name].options()
    with pytest.raises(AttributeError):
        options.width = 1  # type: ignore[attr-defined]


def test_the_defaults_are_the_studys() -> None:
    defaults = {name: msgspec.structs.asdict(NETWORKS[name].options()) for name in NETWORKS}
    plan = {"width": 32, "blocks": (3, 3, 6, 6)}
    branched = {"width": 32, "blocks": (1, 1, 1, 1), "factor": 4, "branches": (3, 3, 6, 6)}
    vgg = {"width": 32, "bn": False, "rc": False, "down_skip": "none"}
    assert defaults == {
        "baseline-130k": {"width": 16},
        "baseline-430k": {"width": 32},
        "baseline-large": {"width": 32},
        "resv1": plan,
        "bn4": plan | {"factor": 4},
        "bn8": plan | {"factor": 8},
        "deb": plan | {"factor": 4, "squeeze": 2},
        "hwyv1": plan | {"factor": 4},
        "hwyv2": plan,
        "bv1": branched,
        "bv2": branched,
        "bnv1": branched,
        "bnv2": branched,
        "alexnet": {"width": 64},
        "vggnet": {"width": 8},
        "vggnet-bn": {"width": 8},
        "deep-vggnet-bn": {"width": 8},
        "resnet": {"width": 8},
        "resnet-deeper": {"width": 8},
        "vgg08": vgg,
        "vgg38": vgg,
        "cnn": {"width": 32},
        "mlp": {"width": 20, "depth": 8, "activation": "relu", "initialisation": "auto"},
        "mlp-plain": {"width": 20, "blocks": 5},
        "mlp-residual": {"width": 20, "blocks": 5, "initialisation": "kaiming"},
    }


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resv1", {"width": 0}, "resv1: width must be at least 1, got 0"),
        ("resv1", {"blocks": [3, 3]}, "blocks must be 4 counts, one per stage, each 0 or more; got [3, 3]"),
        ("resv1", {"blocks": [1, 1, -1, 1]}, "each 0 or more; got [1, 1, -1, 1]"),
        ("bn4", {"factor": 0}, "factor must be at least 1, got 0"),
        ("bn8", {"width": 12}, "width must be a multiple of factor (8), got 12"),
        ("deb", {"width": 12}, "width must be a multiple of factor × squeeze (8), got 12"),
        ("deb", {"squeeze": 0}, "squeeze must be at least 1, got 0"),
        ("bv1", {"branches": [3, 3, 3, 7]}, "branches must be 4 counts, one per stage, each from 3 to 6"),
        ("bv2", {"branches": [2, 3, 3, 3]}, "each from 3 to 6; got [2, 3, 3, 3]"),
        ("vgg38", {"down_skip": "max"}, "vgg38: Invalid enum value 'max' - at `$.down_skip`"),
        ("vgg38", {"bn": 1}, "vgg38: Expected `bool`, got `int` - at `$.bn`"),
        ("alexnet", {"bn": True}, "alexnet has no option 'bn' (it has width)"),
        ("resnet-20", {"width": 0}, "resnet-20: width must be at least 1, got 0"),
        ("plainnet-56", {"depth": 8}, "plainnet-56 has no option 'depth' (it has width)"),
        ("resv1", {"width": "32"}, "Expected `int`, got `str` - at `$.width`"),
        ("resv1", {"widht": 32}, "resv1 has no option 'widht' (it has width, blocks); did you mean 'width'?"),
        ("baseline-130k", {"blocks": [1, 1, 1, 1]}, "baseline-130k has no option 'blocks' (it has width)"),
    ],
)
def test_an_impossible_option_is_refused_in_one_line(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as refusal:
        check(name, options)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_options_can_be_converted_in_place_for_an_exact_error_path() -> None:
    kind = options_type("bn8")
    assert kind is not None
    with pytest.raises(msgspec.ValidationError, match=r"multiple of factor \(8\), got 4 - at `\$\[0\]`"):
        msgspec.convert([{"width": 4}], list[kind])  # type: ignore[valid-type]


def test_options_may_come_as_toml_gives_them() -> None:
    parsed = parse_options("deb", {"width": 16, "blocks": [1, 2, 3, 0], "factor": 2})
    assert msgspec.structs.asdict(parsed) == {"width": 16, "blocks": (1, 2, 3, 0), "factor": 2, "squeeze": 2}


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNetworkError, match="unknown network 'resv2'; did you mean 'resv1'") as refusal:
        find("resv2")
    assert refusal.value.nearest == ("resv1",)
    assert isinstance(refusal.value, ModelError)


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(UnknownNetworkError, match=r"^unknown network 'qqq'$"):
        options_type("qqq")


@pytest.mark.parametrize("name", ["torchvision:resnet18", "nets/mine.py:build"])
def test_external_builders_keep_their_options_to_themselves(name: str) -> None:
    assert options_type(name) is None


def test_checking_names_and_options_imports_neither_torch_nor_numpy() -> None:
    program = """
import sys
from models.registry import ModelError, check
check("bnv2", {"width": 8})
check("torchvision:resnet18", {})
try:
    check("no/such/file.py:build", {})
except ModelError:
    pass
print(sorted({"torch", "torchvision", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
