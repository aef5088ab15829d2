"""Compiled CPU kernels: where they are, which are in use, and calls on tensors (no autograd)."""

from lesff.kernels.calls import (
    ContractionTerms,
    ConvolutionEdges,
    ConvolutionPath,
    RadialTable,
    contract,
    contract_backward,
    convolve,
    convolve_backward,
    harmonics,
    harmonics_backward,
)
from lesff.kernels.loading import TABLE_BLOCK, KernelStatus, is_active, kernel_status

__all__ = [
    "TABLE_BLOCK",
    "ContractionTerms",
    "ConvolutionEdges",
    "ConvolutionPath",
    "KernelStatus",
    "RadialTable",
    "contract",
    "contract_backward",
    "convolve",
    "convolve_backward",
    "harmonics",
    "harmonics_backward",
    "is_active",
    "kernel_status",
]
