"""Job files as no person would write them: real ones with a few things changed, the same ones for the same seed."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

WHOLE = b"""name = "whole"
priority = 1
[model]
name = "bn4"
width = 8
blocks = [1, 1, 1, 1]
[data]
name = "shapes"
root = "data"
split = [0.8, 0.1, 0.1]
limit = 500
augment = "easy"
chunk_size = 64
pixel_range = 1
mean = [0.5, 0.5, 0.5]
std = [0.2, 0.2, 0.2]
[train]
epochs = 9
batch_size = 16
evaluate_every = 10
seed = 4
precision = "auto"
checkpoint_every = "1m"
[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9
[schedule]
name = "steps"
milestones = [2, 3]
warmup_epochs = 1
[resources]
memory = "1 GiB"
threads = 1
[limits]
time = "6h"
hang = "10m"
[diagnostics]
gradient_flow = true
landscape = true
landscape_grid = 5
landscape_images = 10
[matrix]
"data.augment" = ["none", "easy"]
"train.seed" = [1, 2]
"""

VALUES = [
    b"0", b"-1", b"3", b"1.5", b"true", b"nan", b"inf", b"-inf", b"1e400", b"5e-324", b"-0.0", b"1_000_000",
    b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"1" + b"0" * 5000, b"0x" + b"f" * 5000,
    b"1979-05-27", b"07:32:00", b"1979-05-27T07:32:00Z", b"[]", b"{}", b"[[]]", b"[1, 'a', [2.5]]", b"{a = {b = 1}}",
    b"{name = 'sgd', lr = nan}", b"[" * 40 + b"]" * 40, b"[" * 5000 + b"]" * 5000, b"[" + b"1, " * 5000 + b"]",
    b'""', b'"x"', b'"\\u0000"', b'"a\\nb"', b'"\\u001b[31mred\\u001b[0m"', b'"\\u202ederorrim"', b'"\\U0010ffff"',
    '"Füße ☃ 名前"'.encode(), b'"' + b"x" * 20_000 + b'"', b'"../../../../etc/passwd"', b'"/etc/passwd"', b'"~root"',
    b'"~no-such-user/x"', b'"/dev/stdin"', b'"/proc/self/mem"', b'"$(touch /tmp/x)"', b'"; rm -rf ~"', b'"--device"',
    b'"../x.py:build"', b'"x.py:"', b'":build"', b'"torchvision:"', b'"torchvision:resnet18"', b'"torchvision:../x"',
    b'"resv1"', b'"shapes"', b'"spirals"', b'"imagefolder"', b'"official"', b'"cosine"', b'"adamw"', b'"0 epochs"',
    b'"\\u001b[2J\\n.py:build"', b'"6 GiB"', b'"1e9 GiB"',
    b'"' + b"9" * 400 + b' GiB"', b'"' + b"9" * 400 + b'h"', b'"-1s"', b'"0s"',
]  # fmt: skip

KEYS = [
    b"name", b"priority", b"model.name", b"model", b"data.root", b"data.name", b"data", b"train.epochs", b"train",
    b"train.seed", b"optimizer.name", b"optimizer.lr", b"schedule.name", b"schedule.milestones", b"resources.memory",
    b"limits.time", b"diagnostics.landscape_grid", b"matrix", b"matrix.x", b'""', b'"a b"', b'"\\n"', b'"\\u001b[2J"',
    b"__class__", b".".join([b"a"] * 500), b"x" * 10_000, "ключ".encode(), '"ключ"'.encode(),
]  # fmt: skip

PIECES = [b"\0", b"\xef\xbb\xbf", b"\xc3", b"\r", b"\r\n", b"\x1b", b"\xff\xfe", b"#", b'"', b"'''", b"["]
DOTTED = [b"train.seed", b"train.epochs", b"data.augment", b"optimizer.lr", b"model.width", b"data.limit", b"priority"]

Mutation = Callable[[random.Random, bytes], bytes]


def seeds(root: Path) -> list[bytes]:
    """The project's own job files, and one with every section."""
    return [WHOLE, *(path.read_bytes() for path in sorted((root / "jobs").rglob("*.toml")))]


def mutated(chance: random.Random, files: Sequence[bytes]) -> bytes:
    """One of the files with up to four things changed; now and then none."""
    content = chance.choice(files)
    for _ in range(chance.choice((0, 0, 0, 1, 1, 1, 2, 4))):
        content = chance.choice(MUTATIONS)(chance, content)
    return content


def hostile_name(chance: random.Random) -> str:
    """The name of a file, as a file system allows it."""
    plain = f"{chance.randrange(10**6)}"
    odd = ["", "", "", "a b", "\n", "\x1b[31m", "-rf", "..", "ü☃", "\udcff", "'\"`$(x)", "x" * 150]
    return f"{chance.choice(odd)}{plain}.toml"


def _flip(chance: random.Random, content: bytes) -> bytes:
    changed = bytearray(content or b"x")
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _cut(chance: random.Random, content: bytes) -> bytes:
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:end] if chance.random() < 0.5 else content[:start] + content[end:]


def _insert(chance: random.Random, content: bytes) -> bytes:
    at = chance.randrange(len(content) + 1)
    piece = chance.choice(PIECES)
    return content[:at] + piece + content[at:]


def _lines(change: Callable[[random.Random, list[bytes]], None]) -> Mutation:
    def mutate(chance: random.Random, content: bytes) -> bytes:
        lines = content.split(b"\n")
        change(chance, lines)
        return b"\n".join(lines)

    return mutate


def _remove(chance: random.Random, lines: list[bytes]) -> None:
    del lines[chance.randrange(len(lines))]
    if not lines:
        lines.append(b"")


def _duplicate(chance: random.Random, lines: list[bytes]) -> None:
    lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))


def _swap(chance: random.Random, lines: list[bytes]) -> None:
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]


def _new_value(chance: random.Random, lines: list[bytes]) -> None:
    valued = [number for number, line in enumerate(lines) if b"=" in line]
    if valued:
        at = chance.choice(valued)
        lines[at] = lines[at].partition(b"=")[0] + b"= " + chance.choice(VALUES)


def _new_line(chance: random.Random, lines: list[bytes]) -> None:
    line = chance.choice(KEYS) + b" = " + chance.choice(VALUES)
    lines.insert(chance.choice((0, chance.randrange(len(lines) + 1))), line)


def _new_table(chance: random.Random, content: bytes) -> bytes:
    brackets = chance.choice(((b"[", b"]"), (b"[[", b"]]")))
    return content + b"\n" + brackets[0] + chance.choice(KEYS) + brackets[1] + b"\n"


def _odd_matrix(chance: random.Random, content: bytes) -> bytes:
    """Over values of all kinds, in place of a matrix that is there."""
    keys = chance.sample([*DOTTED, *KEYS], chance.randint(1, 4))
    lines = [_quoted(key) + b" = [" + b", ".join(chance.sample(VALUES, chance.randint(0, 3))) + b"]" for key in keys]
    return content.partition(b"[matrix]")[0] + b"\n[matrix]\n" + b"\n".join(lines) + b"\n"


def _enormous_matrix(chance: random.Random, content: bytes) -> bytes:
    """Of up to 10 ** 25 combinations."""
    many = chance.choice((10, 1000, 5000))
    values = b"[" + b", ".join(b"%d" % (1 + number) for number in range(many)) + b"]"
    lines = [_quoted(key) + b" = " + values for key in chance.sample(DOTTED, chance.randint(1, len(DOTTED)))]
    return content.partition(b"[matrix]")[0] + b"\n[matrix]\n" + b"\n".join(lines) + b"\n"


def _quoted(key: bytes) -> bytes:
    return key if key.startswith(b'"') else b'"' + key + b'"'


MUTATIONS: list[Mutation] = [
    _flip,
    _cut,
    _insert,
    _lines(_remove),
    _lines(_duplicate),
    _lines(_swap),
    _lines(_new_value),
    _lines(_new_value),
    _lines(_new_value),
    _lines(_new_line),
    _new_table,
    _odd_matrix,
    _enormous_matrix,
]
