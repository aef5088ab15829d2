"""Fused kernels: compiled ones for CPUs, Triton ones for GPUs; calls on tensors (no autograd)."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor

from lesff.kernels.arguments import ContractionTerms, ConvolutionEdges, ConvolutionPath, RadialTable
from lesff.kernels.cpu import harmonics, harmonics_backward
from lesff.kernels.library import (
    TABLE_BLOCK,
    KernelStatus,
    device_kernels_wanted,
    is_active,
    kernel_status,
)

__all__ = [
    "TABLE_BLOCK",
    "ContractionTerms",
    "ConvolutionEdges",
    "ConvolutionPath",
    "KernelStatus",
    "RadialTable",
    "backend",
    "harmonics",
    "harmonics_backward",
    "is_active",
    "kernel_status",
]


def backend(tensor: Tensor) -> ModuleType | None:
    """Module whose ``convolve`` and ``contract`` compute on a tensor's device and type.

    :mod:`lesff.kernels.cpu` on CPUs, :mod:`lesff.kernels.gpu` on CUDA devices where Triton is
    installed, None for plain PyTorch.
    """
    if is_active(tensor):
        return import_module("lesff.kernels.cpu")
    if tensor.is_cuda and tensor.is_floating_point() and device_kernels_wanted():
        return _device_module()
    return None


@cache
def _device_module() -> ModuleType | None:
    return None if find_spec("triton") is None else import_module("lesff.kernels.gpu")
