"""Memory that the process keeps."""

import os
import resource
import sys

import pytest
import torch

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
    """In a process of its own: the setting cannot be taken back."""
    child = os.fork()
    if child == 0:
        kept = keep_freed_memory(torch.device("cpu"))
        size = 64 * MEBIBYTE
        page_faults(size, 8)
        faults = page_faults(size, 4)
        # Given back in between, these four would fault on 4 x 16,384 pages.
        os._exit(0 if kept and faults < size // PAGE // 4 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_other_devices_are_left_alone() -> None:
    assert not keep_freed_memory(torch.device("meta"))
