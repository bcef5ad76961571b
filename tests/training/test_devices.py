"""Memory that the process keeps."""

import resource
import subprocess
import sys

import pytest
import torch

from tests.helpers import ROOT
from training.devices import keep_freed_memory

MEBIBYTE = 2**20
PAGE = resource.getpagesize()


def page_faults(tensor_bytes: int, times: int) -> int:
    """Minor faults of filling and freeing a tensor again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(tensor_bytes // 4).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_a_freed_tensor_costs_no_page_faults_the_next_time() -> None:
    """In a process of its own, whose heap holds nothing else: the setting cannot be taken back."""
    size, times = 64 * MEBIBYTE, 4
    code = f"""
import torch
from tests.training.test_devices import page_faults
from tests.helpers import ROOT
from training.devices import keep_freed_memory
given_back = page_faults({size}, {times})
assert keep_freed_memory(torch.device("cpu"))
page_faults({size}, 8)
print(given_back, page_faults({size}, {times}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    given_back, kept = map(int, done.stdout.split())
    pages = times * size // PAGE
    assert given_back >= 0.9 * pages and kept < 0.1 * pages


def test_other_devices_are_left_alone() -> None:
    assert not keep_freed_memory(torch.device("meta"))
