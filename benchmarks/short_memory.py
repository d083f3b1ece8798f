"""What convolutions do on a GPU as memory gets short: from which cap on they fail, and whether gpuq knows the error.

    uv run python benchmarks/short_memory.py --out benchmarks/results/short-memory.json

cuDNN may choose kernels with smaller workspaces, or have none that fits, before the caching allocator says a word.
"""

import argparse
from pathlib import Path
from typing import Any

import harness
import torch
import torchvision
from harness import MiB

from jobs.memory import cap_memory, is_out_of_memory, requested_bytes

GPU = torch.device("cuda:0")
NETWORKS = "resnet18", "densenet121"
BATCH, PIXELS = 128, 224
SHARES = 1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6  # of what is reserved without a cap
UNCAPPED = 1 << 60


def steps(network: str, precision: str, cap_bytes: int) -> dict[str, Any]:
    """Two training steps within a cap of the allocator: what it reserved, and the error if they failed."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(GPU)
    cap_memory(GPU, cap_bytes, 0)
    known: dict[str, Any] = {}
    try:
        _train(network, precision)
    except RuntimeError as error:
        known = {
            "error": str(error).partition("\n")[0],
            "is_out_of_memory": is_out_of_memory(error),
            "requested_bytes": requested_bytes(error),
        }
    return {**known, "reserved_bytes": torch.cuda.max_memory_reserved(GPU)}


def _train(name: str, precision: str) -> None:
    network = getattr(torchvision.models, name)().to(GPU, memory_format=torch.channels_last)
    images = torch.rand(BATCH, 3, PIXELS, PIXELS, device=GPU).to(memory_format=torch.channels_last)
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = network(images).float().logsumexp(1).mean()
        loss.backward()
    torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU is to be seen")
    rows = []
    for network in NETWORKS:
        for precision in ("bf16", "fp32"):
            whole = steps(network, precision, UNCAPPED)["reserved_bytes"]
            print(f"{network} in {precision}: {whole // MiB} MiB without a cap", flush=True)
            for share in SHARES:
                got = steps(network, precision, int(share * whole))
                said = f"known: {got['is_out_of_memory']}: {got['error']}" if "error" in got else "fits"
                print(f"  {share:4.0%}: {said}; {got['reserved_bytes'] // MiB} MiB", flush=True)
                rows.append({"network": network, "precision": precision, "share": share, "whole_bytes": whole, **got})
    harness.write(options.out, {**harness.about(), "device": torch.cuda.get_device_name(GPU), "rows": rows})


if __name__ == "__main__":
    main()
