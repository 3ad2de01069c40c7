"""GPU types by the names that drivers, clouds and people give them."""

from __future__ import annotations

import pytest

from predictors.gpus import PEAKS, peak_of, type_of


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("T4", "T4"),
        ("Tesla T4", "T4"),
        ("tesla-v100-sxm2-16gb", "V100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("A100SXM480GB", "A100"),
        ("A10080GB", "A100"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100PCIE"),
        ("NVIDIA GeForce RTX 3090", "RTX3090"),
        ("NVIDIA GeForce RTX 2080 Ti", "RTX2080TI"),
        ("Quadro RTX 6000", "RTX6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000ADA"),
        ("NVIDIA RTX A6000", "RTXA6000"),
        ("NVIDIA L40S", "L40S"),
    ],
)
def test_a_type_is_known_by_its_names(name: str, known: str) -> None:
    assert type_of(name) == known
    assert peak_of(name) is not None


@pytest.mark.parametrize("name", ["NVIDIA T400 4GB", "A1000", "Weird 9000", "cpu", ""])
def test_another_type_is_not_taken_for_one_that_its_name_begins_with(name: str) -> None:
    assert type_of(name) not in PEAKS
    assert peak_of(name) is None


def test_more_memory_is_faster_memory_of_the_same_type() -> None:
    small, large = peak_of("A100-SXM4-40GB"), peak_of("NVIDIA A100 80GB PCIe")
    assert small and large
    assert large.bandwidth_gb_per_s > small.bandwidth_gb_per_s
    assert large.half_tflops == small.half_tflops
