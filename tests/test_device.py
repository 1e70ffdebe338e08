"""Which device and precision computes, and what errors of torch mean."""

import pytest
import torch

from model import ModelError, load_segmenter
from model.device import choose_dtype, is_device_lost, is_out_of_memory, lost
from model.home import DEFAULT_MODEL

CPU = torch.device("cpu")


def error_of(step) -> Exception:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        step()
    return caught.value


def test_the_cpu_computes_in_float32_unless_told_otherwise():
    assert choose_dtype("auto", CPU) == choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16


def test_a_precision_that_is_unknown_or_not_to_be_had_is_refused():
    with pytest.raises(ModelError, match="unknown precision 'half'; use auto, float32, bf16"):
        load_segmenter(DEFAULT_MODEL, device="cpu", precision="half")
    with pytest.raises(ModelError, match="device mps does not compute in bf16"):
        choose_dtype("bf16", torch.device("mps"))


def test_torchs_own_error_of_full_memory_is_known():
    error = error_of(lambda: torch.empty(2**46, dtype=torch.uint8))
    assert is_out_of_memory(error) and not is_device_lost(error)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))


def test_full_memory_is_known_behind_the_error_that_followed_it():
    def fail() -> None:
        try:
            torch.empty(2**46, dtype=torch.uint8)
        finally:
            raise RuntimeError("the capture was not ended")

    assert is_out_of_memory(error_of(fail))


def test_other_errors_of_torch_are_neither():
    error = error_of(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))
    assert not is_out_of_memory(error) and not is_device_lost(error)


def test_a_lost_device_is_named_with_what_to_do():
    kind = getattr(torch, "AcceleratorError", RuntimeError)
    error = kind("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")
    assert is_device_lost(error)
    assert str(lost(torch.device("cuda:1"), error)).startswith("device cuda:1 failed (CUDA error:")
    assert "run again" in str(lost(CPU, error)) and "DSA" not in str(lost(CPU, error))
