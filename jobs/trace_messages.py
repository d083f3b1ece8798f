"""What goes to and comes from the process that traces jobs: one JSON line each."""

from msgspec import Struct

from jobs.spec import JobSpec

MiB = 1 << 20


class Constants(Struct, frozen=True, kw_only=True):
    """What a process takes on a GPU besides its tensors; these defaults, until `jobs.calibrate` has measured it there.

    The context is beside the caching allocator, with the kernels that a training loads. The workspaces are cuBLAS's,
    which the allocator gives it and it keeps: 32 MiB on Hopper for each of the threads that go forward and backward
    (torch's notes on CUDA semantics, "cuBLAS workspaces").
    """

    context_bytes: int = 600 * MiB
    workspace_bytes: int = 64 * MiB


class Request(Struct, frozen=True, kw_only=True):
    """Trace a job as it would run on a device; decode its data set into the cache first if `prepare`."""

    key: int
    spec: JobSpec
    device: str  # a torch device: "cpu", "cuda:0"
    precision: str  # "bf16" or "fp32"
    cache_dir: str
    prepare: bool
    constants: Constants = Constants()  # of the device, if it is a GPU
    most_bytes: int | None = None  # that the estimate may come to if the job is to fit its device; None: not known
    search: bool = False  # tell the largest batch size that fits also of a job that fits as it is
    memory_limit_bytes: int | None = None  # what a trace may take beyond what the process has imported; None: no limit
    cpu_limit_s: int | None = None  # of the CPU, for each trace; None: no limit


class Tracing(Struct, frozen=True, kw_only=True, tag=True):
    """The data are prepared, and the job's network is about to be built and traced. May be said several times."""

    key: int
    resident_bytes: int  # what the process holds before


class OutOfMemory(Struct, frozen=True, kw_only=True, tag=True):
    """The network took more memory than it may. This is the last that the process says."""

    key: int


class Reply(Struct, frozen=True, kw_only=True, tag=True):
    """Bytes by component, which sum to the predicted peak; or one line that says why there are none."""

    key: int
    components: dict[str, int] = {}
    parameters: int = 0
    largest_batch_size: int | None = None  # that fits the device; None: not searched, or none found
    error: str | None = None
    untraceable: bool = False  # the error is that a trace cannot follow the network; it may train all the same
    no_room: bool = False  # the error is that the disk is full; another try may find room


Message = Tracing | OutOfMemory | Reply
