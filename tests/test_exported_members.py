from __future__ import annotations

import crystalbench


def test_every_public_name_can_be_imported() -> None:
    for name in crystalbench.__all__:
        assert getattr(crystalbench, name) is not None


def test_all_is_sorted_and_complete() -> None:
    assert crystalbench.__all__ == sorted(crystalbench._HOME_OF)
