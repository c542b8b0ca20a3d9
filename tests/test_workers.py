"""Threads side by side: results in order, one core each, contexts inside one another."""

import threading

import pytest
import torch

from lampq.workers import Workers

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(threads):
    barrier = threading.Barrier(threads)
    seen = set()

    def square(x):
        barrier.wait(10)  # as many at once as there are threads
        seen.add(threading.get_ident())
        return x * x, torch.get_num_threads()

    with Workers(CPU) as workers:
        results = workers.map(square, range(2 * threads))
    assert results == [(x * x, 1) for x in range(2 * threads)] and len(seen) <= threads
    assert torch.get_num_threads() == threads


def test_a_context_inside_another_one_has_its_threads(threads):
    with Workers(CPU) as outer:
        with Workers(CPU) as inner:
            assert inner._pool is outer._pool and inner.map(abs, [-1, 2]) == [1, 2]
        assert outer.map(abs, [-3]) == [3] and torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


def test_what_goes_wrong_is_raised_and_threads_are_as_before(threads):
    def fail(x):
        raise ValueError(x)

    with pytest.raises(ValueError, match="7"), Workers(CPU) as workers:
        workers.map(fail, [7, 8])
    assert torch.get_num_threads() == threads
    with Workers(CPU) as workers:
        assert workers.map(abs, [-1]) == [1]


def test_a_gpu_is_asked_by_one_thread():
    with Workers(torch.device("cuda")) as workers:
        assert workers.map(lambda _: threading.get_ident(), range(3)) == 3 * [threading.get_ident()]
