"""Policies as a caller sees them, and against the same sequence of torchvision's transforms v2."""

from typing import Any

import pytest
import torch
from distributions import ks_excess
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.transforms import v2

from augment.catalog import POLICY_NAMES
from augment.policies import AugmentError, policy

torch.set_num_threads(1)

CHANGING = [name for name in POLICY_NAMES if name != "none"]
OURS, THEIRS = 8_192, 3_000

REFERENCE = {
    "crop-flip": v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]),
    "easy": v2.Compose(
        [
            v2.RandomPerspective(0.2, p=0.5),
            v2.RandomGrayscale(0.1),
            v2.RandomRotation((0, 15)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.3, contrast=0.5, saturation=0.3),
        ]
    ),
    "hard2": v2.Compose(
        [
            v2.RandomPerspective(0.4, p=0.5),
            v2.RandomGrayscale(0.1),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(0.2),
            v2.RandomInvert(0.2),
            v2.ColorJitter(brightness=0.2, contrast=0.5, saturation=0.4),
        ]
    ),
    "hard3": v2.Compose(
        [
            v2.RandomPerspective(0.3, p=0.5),
            v2.RandomGrayscale(0.1),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(0.2),
            v2.RandomInvert(0.2),
            v2.RandomResizedCrop(32, scale=(0.3, 1.0), antialias=True),
            v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.4),
        ]
    ),
}


def picture() -> Tensor:
    """`(3, 32, 32)`: smooth, coloured, different under every flip, with a bright and a dark figure."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    image = torch.stack([0.2 + 0.6 * x, 0.3 + 0.5 * y, 0.7 - 0.4 * x * y])
    image[:, 4:12, 5:10] = torch.tensor([0.95, 0.8, 0.1])[:, None, None]
    image[:, 20:26, 12:27] = torch.tensor([0.05, 0.2, 0.4])[:, None, None]
    return image


def statistics(images: Tensor) -> dict[str, Tensor]:
    """Numbers that tell of each image what was done to it, `(B,)` each."""
    rows, columns = images.mean(dim=(1, 3)), images.mean(dim=(1, 2))
    red, green, blue = images.mean(dim=(2, 3)).unbind(dim=1)
    middle = images[..., 10:22, 10:22]  # seldom reached by the black that comes in from outside
    coloured, contrasted = colour(images), contrast(images)
    return {
        "red": red,
        "green": green,
        "blue": blue,
        "spread of red": images[:, 0].flatten(1).std(dim=1),
        "spread of blue": images[:, 2].flatten(1).std(dim=1),
        "zeros": (images == 0).flatten(1).float().mean(dim=1),
        "ones": (images == 1).flatten(1).float().mean(dim=1),
        "colour": coloured,
        "gray": coloured < 1e-3,
        "relative contrast": contrasted / images.mean(dim=(1, 2, 3)),
        "relative contrast of the middle": contrast(middle) / middle.mean(dim=(1, 2, 3)),
        "relative colour": coloured / contrasted,
        "relative colour of the middle": colour(middle) / contrast(middle),
        "left less right": columns[:, :16].mean(dim=1) - columns[:, 16:].mean(dim=1),
        "top less bottom": rows[:, :16].mean(dim=1) - rows[:, 16:].mean(dim=1),
        "roughness": (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3)),
        "corner": images[:, 1, 0, 0],
        "centre": images[:, 1, 16, 16],
    }


def colour(images: Tensor) -> Tensor:
    return (images.amax(dim=1) - images.amin(dim=1)).mean(dim=(1, 2))


def contrast(images: Tensor) -> Tensor:
    return images.mean(dim=1).flatten(1).std(dim=1)


@pytest.fixture(scope="module", params=CHANGING)
def samples(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Thousands of draws of a policy on one picture: ours and v2's."""
    torch.manual_seed(1)
    image = picture()
    chunk = image.expand(1024, 3, 32, 32).contiguous()
    augment = policy(request.param, 32)
    ours = torch.cat([augment(chunk) for _ in range(OURS // len(chunk))])
    return ours, torch.stack([REFERENCE[request.param](image) for _ in range(THEIRS)])


def test_policy_has_v2s_distribution(samples: tuple[Tensor, Tensor]) -> None:
    ours, theirs = statistics(samples[0]), statistics(samples[1])
    excess = {name: ks_excess(ours[name], theirs[name]) for name in ours}
    assert {name: value for name, value in excess.items() if value >= 1} == {}


def test_policy_has_v2s_mean_image(samples: tuple[Tensor, Tensor]) -> None:
    ours, theirs = samples
    error = (ours.var(dim=0) / len(ours) + theirs.var(dim=0) / len(theirs)).sqrt()
    deviations = (ours.mean(dim=0) - theirs.mean(dim=0)).abs() / error
    assert deviations.max() < 5


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_every_policy_of_the_catalog_can_be_had(name: str) -> None:
    images = torch.rand(4, 3, 32, 32)
    assert policy(name, 32)(images).shape == images.shape


def test_none_changes_nothing() -> None:
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(policy("none", 32)(images), images)


def test_an_unknown_policy_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(AugmentError, match=r"'hard4'.*none, crop-flip, easy, hard2, hard3"):
        policy("hard4", 32)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(AugmentError, match="32 × 32 pixels, not 28 × 28"):
        policy("easy", 32)(torch.rand(4, 3, 28, 28))


def test_images_that_are_not_square_are_refused_with_what_makes_them_so() -> None:
    with pytest.raises(AugmentError, match="'easy' is for square images, these are 32×28 px; image_size makes"):
        policy("easy", 32)(torch.rand(4, 3, 28, 32))


@pytest.mark.parametrize("name", CHANGING)
def test_the_seed_of_torch_fixes_the_result(name: str) -> None:
    images, augment = torch.rand(16, 3, 32, 32), policy(name, 32)
    torch.manual_seed(7)
    first = augment(images)
    torch.manual_seed(7)
    assert torch.equal(augment(images), first)


@pytest.mark.parametrize("name", CHANGING)
def test_a_policy_has_no_state_but_torchs_generator(name: str) -> None:
    images, used = torch.rand(16, 3, 32, 32), policy(name, 32)
    used(images[:5])
    torch.manual_seed(7)
    first = used(images)
    torch.manual_seed(7)
    assert torch.equal(policy(name, 32)(images), first)


@pytest.mark.parametrize("name", CHANGING)
def test_each_sample_has_its_own_draw(name: str) -> None:
    torch.manual_seed(0)
    augmented = policy(name, 32)(picture().expand(16, 3, 32, 32))
    # crop-flip has 162 outcomes, so a few of 16 may agree.
    assert len(augmented.flatten(1).unique(dim=0)) > 12


@settings(deadline=None, max_examples=10, derandomize=True)
@given(
    name=st.sampled_from(CHANGING),
    size=st.sampled_from([8, 15, 32]),
    channels=st.sampled_from([1, 3]),
    count=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_shape_range_and_input_are_kept(name: str, size: int, channels: int, count: int, seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.rand(count, channels, size, size).round(decimals=1)
    before = images.clone()
    augmented = policy(name, size)(images)
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.float32
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    assert torch.equal(images, before)


def need_fake(device: str) -> None:
    """Skip where this torch needs a GPU even for fake tensors on it: 2.8 does, 2.11 does not."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if device == "cuda" and version < (2, 11):
        pytest.skip(f"torch {torch.__version__} makes no fake CUDA tensors without a GPU")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", POLICY_NAMES)
def test_runs_on_fake_tensors(name: str, device: str) -> None:
    need_fake(device)
    augment = policy(name, 32)
    with FakeTensorMode():
        augmented = augment(torch.empty(64, 3, 32, 32, device=device))
    assert augmented.shape == (64, 3, 32, 32)
    assert augmented.device.type == device


class Transfers(TorchDispatchMode):
    """Notes the operations whose result is on another device than what they were given.

    A number in a tensor on the CPU is none: an operation on the GPU takes it by value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = (
            {t.device.type for t in tree_leaves(x) if isinstance(t, Tensor) and (t.dim() or t.device.type != "cpu")}
            for x in (args, result)
        )
        if given and made and given != made:
            self.seen.append(str(func))
        return result


@pytest.mark.parametrize("name", CHANGING)
def test_never_waits_for_the_gpu(name: str) -> None:
    # Without a GPU: a fake tensor has no values, so reading one on the host would raise; the rest are copies.
    need_fake("cuda")
    augment = policy(name, 32)
    with FakeTensorMode(), Transfers() as transfers:
        augment(torch.empty(64, 3, 32, 32, device="cuda"))
    assert transfers.seen == []
