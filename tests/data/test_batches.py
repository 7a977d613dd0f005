"""Orders of examples, and batches made ahead of time."""

import itertools
import threading
import time

import numpy as np
import pytest
import torch

from harness.data.batches import IGNORED, Batch, chunks, example_order, length_order, make_batch, prefetch, with_epochs


def padding(order, lengths, size):
    batches = list(chunks(order, size))
    return sum(max(lengths[r] for r in b) * len(b) - sum(lengths[r] for r in b) for b in batches)


@pytest.mark.parametrize("examples", [1000, 1003, 7])
def test_length_order_changes_nothing_but_the_order(examples):
    lengths = np.random.default_rng(0).integers(4, 60, 400).tolist()
    order = list(itertools.islice(example_order(range(400), seed=1), examples))
    arranged = list(length_order(order, lengths, 8, seed=1))
    assert sorted(arranged) == sorted(order)
    assert arranged == list(length_order(order, lengths, 8, seed=1))
    if examples > 100:
        assert arranged != list(length_order(order, lengths, 8, seed=2))
        assert padding(arranged, lengths, 8) < 0.35 * padding(order, lengths, 8)
        # Lengths are shuffled over the training, not sorted from short to long.
        means = [np.mean([lengths[row] for row in batch]) for batch in chunks(arranged[:400], 8)]
        assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4


def test_occurrences_count_what_was_seen_before():
    assert list(with_epochs([3, 1, 3, 3, 1])) == [(3, 0), (1, 0), (3, 1), (3, 2), (1, 1)]


def test_prefetched_keeps_the_order_and_runs_ahead():
    made = []

    def items():
        for number in range(5):
            made.append(number)
            yield number

    iterator = prefetch(items(), ahead=2)
    assert next(iterator) == 0
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) >= 3, "nothing was made ahead"
    assert list(iterator) == [1, 2, 3, 4]


def test_prefetched_raises_what_its_thread_raised():
    def items():
        yield 1
        raise KeyError("broken")

    iterator = prefetch(items())
    assert next(iterator) == 1
    with pytest.raises(KeyError, match="broken"):
        next(iterator)


def test_prefetched_leaves_no_thread_when_it_is_closed():
    def endless():
        while True:
            yield 1

    iterator = prefetch(endless())
    next(iterator)
    iterator.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_labels_are_padded_to_the_longest_of_the_batch():
    batch = make_batch(torch.zeros(2, 80, 30), [[1, 2, 3], [1, 2]], pad=9)
    assert batch.labels.tolist() == [[2, 3], [2, IGNORED]]
    assert batch.decoder_input_ids.tolist() == [[1, 2], [1, 2]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_batches_arrive_whole():
    batch = Batch(torch.randn(4, 80, 30), torch.ones(4, 5, dtype=torch.long), torch.ones(4, 5, dtype=torch.long))
    moved = batch.pinned().to(torch.device("cuda"))
    torch.cuda.synchronize()
    assert torch.equal(moved.input_features.cpu(), batch.input_features)
