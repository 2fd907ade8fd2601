"""Memory of outputs is used again when nothing holds it, and never while something does."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from headrace.store.output_memory import OutputMemory


def address(arrays: list[np.ndarray]) -> int:
    return int(arrays[0].ctypes.data)


@pytest.mark.parametrize("shapes", [[(3, 4)], [(8192, 16)] * 26, [(0, 8), (5, 1), (1, 7)], []])
def test_arrays_have_their_shapes_and_do_not_overlap(shapes: list[tuple[int, int]]) -> None:
    arrays = OutputMemory().take(shapes)
    assert [array.shape for array in arrays] == shapes
    for number, array in enumerate(arrays):
        array[...] = number
    for number, array in enumerate(arrays):
        assert (array == number).all()
        assert array.size == 0 or array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous


def test_memory_is_used_again_once_nothing_holds_it() -> None:
    memory = OutputMemory()
    first = memory.take([(100, 8), (100, 8)])
    where = address(first)
    del first
    assert address(memory.take([(100, 8), (100, 8)])) == where


def test_a_single_array_or_a_tensor_of_it_keeps_its_block() -> None:
    memory = OutputMemory()
    first = memory.take([(100, 8), (100, 8)])
    first[1][...] = 7.0
    kept = torch.from_numpy(first[1])[3:5]
    del first
    second = memory.take([(100, 8), (100, 8)])
    for array in second:
        array[...] = 0.0
    assert (kept == 7.0).all()


def test_small_batches_do_not_hold_large_blocks() -> None:
    memory = OutputMemory()
    large = address(memory.take([(100_000, 8)]))
    assert address(memory.take([(10, 8)])) != large
    assert sum(len(block) for block in memory._blocks) < 100_000


def test_many_at_once_are_all_apart_and_few_are_kept() -> None:
    memory = OutputMemory()
    held = [memory.take([(64, 8)]) for _ in range(50)]
    assert len({address(arrays) for arrays in held}) == 50
    assert len(memory._blocks) <= 4


def test_threads_never_share_a_block() -> None:
    memory, wrong = OutputMemory(), []

    def work(number: int) -> None:
        for _ in range(300):
            (array,) = memory.take([(50, 8)])
            array[...] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
