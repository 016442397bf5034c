"""Work in threads: order, bounds, errors, and nothing left behind."""

import _thread
import threading
import time

import pytest
import torch

from mmadapt.data.threads import cores, ordered_map
from mmadapt.errors import UserError


def threads_left():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mmadapt")]


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """No test may leave a thread, or another number of torch threads."""
    before = torch.get_num_threads()
    yield
    assert threads_left() == []
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("workers", [0, 1, 3, 50])
def test_results_keep_their_order_and_see_one_torch_thread(workers):
    def slow_first(i):
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i, torch.get_num_threads()

    assert list(ordered_map(slow_first, range(20), workers)) == [(i, 1) for i in range(20)]


def test_no_more_is_begun_than_may_be_held():
    begun = []
    results = ordered_map(begun.append, range(50), 3, ahead=5)
    for taken in range(1, 10):
        next(results)
        time.sleep(0.02)
        assert len(begun) <= taken + 5
    results.close()
    assert len(begun) < 20


def test_error_keeps_its_type_and_place():
    def fail(i):
        if i == 3:
            raise UserError("the third")
        return i

    for workers in (0, 2):
        results, seen = ordered_map(fail, range(10), workers), []
        with pytest.raises(UserError, match="the third"):
            seen.extend(iter(lambda r=results: next(r), None))
        assert threads_left() == []


def test_ctrl_c_stops_at_once():
    begun = []

    def work(i):
        begun.append(i)
        if i == 2:
            _thread.interrupt_main()
        time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        for _ in ordered_map(work, range(500), 2):
            pass
    assert len(begun) < 20


def test_cores_are_those_of_this_process():
    assert cores() >= 1
