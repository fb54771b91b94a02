"""Chance is a pure function, and it is as even as chance should be."""

import numpy as np

from unfreeze.data.chance import keys_of, order, uniforms

KEYS = np.random.default_rng(0).integers(0, 2**63, 500).astype(np.uint64)

# Computed with whole numbers of Python, step by step.
FIRST = [0.049920065672091285, 0.6703283700586791]
ORDER = [0, 4, 3, 5, 2, 1]


def test_a_number_depends_on_seed_round_key_and_place_alone():
    whole = uniforms(3, 7, KEYS, 5)
    assert np.array_equal(uniforms(3, 7, KEYS[[400, 2]], 5), whole[[400, 2]])
    assert np.array_equal(uniforms(3, 7, KEYS, 2), whole[:, :2])
    for other in (uniforms(4, 7, KEYS, 5), uniforms(3, 8, KEYS, 5)):
        assert not np.any(other == whole)


def test_known_values_hold_on_every_machine():
    assert uniforms(0, 0, np.array([0], dtype=np.uint64), 2)[0].tolist() == FIRST
    assert order(0, 0, 6).tolist() == ORDER


def test_numbers_are_even_and_do_not_follow_each_other():
    found = uniforms(1, 2, KEYS, 40)
    assert found.min() >= 0
    assert found.max() < 1
    assert abs(found.mean() - 0.5) < 0.01
    assert abs(found.std() - 12**-0.5) < 0.01
    counts = np.histogram(found, bins=10, range=(0, 1))[0]
    assert abs(counts - 2000).max() < 200
    for other in (uniforms(1, 3, KEYS, 40), uniforms(2, 2, KEYS, 40), np.roll(found, 1, axis=1)):
        assert abs(np.corrcoef(found.ravel(), other.ravel())[0, 1]) < 0.03


def test_any_seed_and_round_will_do():
    for seed, round_ in ((-1, 0), (2**70, 1), (0, 2**40), (5, 2**33 + 1)):
        found = uniforms(seed, round_, KEYS[:3], 2)
        assert ((found >= 0) & (found < 1)).all()


def test_an_order_is_a_permutation():
    orders = {tuple(order(seed, epoch, 50)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(found) == list(range(50)) for found in orders)
    assert order(0, 0, 0).tolist() == []


def test_a_key_is_the_first_eight_bytes_of_the_hash():
    digests = np.arange(32, dtype=np.uint8).reshape(2, 16)
    assert keys_of(digests).tolist() == [int.from_bytes(bytes(range(i, i + 8)), "little") for i in (0, 16)]
