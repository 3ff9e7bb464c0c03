"""The tests' own store keeps the contract too (but for folders, which it has none of)."""

from __future__ import annotations

import pytest

from statemachine.store import Store
from tests.doubles import MemoryStore

from .store_contract import StoreContract


@pytest.fixture
def store() -> Store:
    return MemoryStore()


class TestMemoryStore(StoreContract):
    test_folders_go_out_and_come_back = None  # type: ignore[assignment]
    test_what_is_fetched_has_siblings = None  # type: ignore[assignment]
    test_a_file_is_published_over_an_old_one = None  # type: ignore[assignment]
    test_of_many_creators_one_wins = None  # type: ignore[assignment]
    test_concurrent_swaps_lose_no_increment = None  # type: ignore[assignment]
    test_processes_lose_no_increment = None  # type: ignore[assignment]
    test_many_keys_come_in_pages = None  # type: ignore[assignment]
