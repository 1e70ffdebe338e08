"""Devices: which one computes, in what precision, and what its errors mean."""

from __future__ import annotations

import torch

from model.errors import ModelError

PRECISIONS = ("auto", "float32", "bf16")
_FULL = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
_LOST = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "cuDNN error", "CUDA driver error")
_AcceleratorError: type[RuntimeError] | None = getattr(torch, "AcceleratorError", None)


def choose_device(name: str) -> torch.device:
    """Return the device of this name; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ModelError: the name is unknown or this machine has no such device.
    """
    if name == "auto":
        return torch.device(_best_device())
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device {name} is not there: torch sees {torch.cuda.device_count()} CUDA devices;"
            " use --device cpu, or install a CUDA build of torch"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device mps is not there on this machine; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ModelError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps")
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type to compute in; "auto" is bf16 on a CUDA device that has it, else float32.

    Raises:
        ModelError: the precision is unknown, or the device cannot compute in it.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"unknown precision {precision!r}; use {', '.join(PRECISIONS)}")
    if precision == "float32":
        return torch.float32
    if device.type == "cuda":
        with torch.cuda.device(device):
            able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = device.type == "cpu" and precision == "bf16"
    if precision == "bf16" and not able:
        raise ModelError(f"device {device} does not compute in bf16; set precision to float32")
    return torch.bfloat16 if able else torch.float32


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, says that memory does not suffice."""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(part in str(error) for part in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_device_lost(error: BaseException) -> bool:
    """Return whether an error says that a GPU failed: it then serves this process no more."""
    if _AcceleratorError is not None and isinstance(error, _AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _LOST)


def lost(device: torch.device, error: BaseException) -> ModelError:
    """Return what to tell of a GPU that failed in the middle of the work."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return ModelError(
        f"device {_named(device)} failed ({first}); what was finished is kept: run again to go"
        " on from there, with --device cpu if it fails again"
    )


def too_small(device: torch.device) -> ModelError:
    """Return what to tell where not even one patch fits into memory."""
    return ModelError(
        f"not even one patch fits into the free memory of device {_named(device)}; end other"
        " programs that use it, or choose another with --device"
    )


def _named(device: torch.device) -> str:
    if device.type != "cuda" or not torch.cuda.is_available():
        return str(device)
    try:
        return f"{device} ({torch.cuda.get_device_name(device)})"
    except RuntimeError:  # a device that is lost may not know its name any more
        return str(device)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
