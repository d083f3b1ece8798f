"""Which errors are the device's and which the job's own: torch's messages, with CUDA's words."""

import pytest
import torch

from jobs.memory import is_device_failure, is_out_of_memory

HINT = "\nCUDA kernel errors might be asynchronously reported at some other API call"

AT_THE_START = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() "
    "that might have already set an error?"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(f"CUDA error: unspecified launch failure{HINT}"),
        torch.AcceleratorError(f"CUDA error: uncorrectable ECC error encountered{HINT}"),
        torch.AcceleratorError(f"CUDA error: unknown error{HINT}"),
        RuntimeError("CUDA driver error: unknown error"),
        RuntimeError("CUDA driver error: device not ready"),
        RuntimeError("No CUDA GPUs are available"),
        RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
        RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"),
        RuntimeError(f"{AT_THE_START} Error 803: system has unsupported display driver / cuda driver combination"),
        RuntimeError("CUDA driver initialization failed, you might not have a CUDA gpu."),
        RuntimeError("The NVIDIA driver on your system is too old (found version 12020). Please update it"),
    ],
    ids=str,
)
def test_a_device_or_driver_that_has_gone_is_not_the_jobs_fault(error: RuntimeError) -> None:
    assert is_device_failure(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(f"CUDA error: device-side assert triggered{HINT}"),
        torch.AcceleratorError(f"CUDA error: an illegal memory access was encountered{HINT}"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (32x10 and 8x10)"),
        ValueError("CUDA error: unknown error"),  # some network's own words
    ],
    ids=str,
)
def test_what_a_network_does_wrong_is(error: Exception) -> None:
    assert not is_device_failure(error)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory",
        "CUDA driver error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "GET was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
    ],
)
def test_memory_that_runs_out_beside_the_allocator_is_no_failure_of_the_device(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))
    assert not is_device_failure(RuntimeError(said))
