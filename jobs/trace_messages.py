"""What goes to and comes from the process that traces jobs: one JSON line each."""

from msgspec import Struct

from jobs.spec import JobSpec


class Request(Struct, frozen=True, kw_only=True):
    """Trace a job as it would run on a device; decode its data set into the cache first if `prepare`."""

    key: int
    spec: JobSpec
    device: str  # a torch device: "cpu", "cuda:0"
    context_bytes: int  # of a process on that device, beside its tensors
    precision: str  # "bf16" or "fp32"
    cache_dir: str
    prepare: bool


class Reply(Struct, frozen=True, kw_only=True):
    """Bytes by component, which sum to the predicted peak; or one line that says why there are none."""

    key: int
    components: dict[str, int] = {}
    parameters: int = 0
    error: str | None = None
