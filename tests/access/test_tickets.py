"""Tickets, the numbers that a method holds instead of harness objects: no way to the object, valid within one block only."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from petlbench.access.tickets import Tickets, lent
from petlbench.errors import AccessError
from tests.object_graph import reachable


class Thing:
    def __init__(self) -> None:
        self.told: list[int] = []

    def tell(self, number: int) -> None:
        self.told.append(number)


def test_a_number_stands_for_a_thing_until_the_block_ends_in_every_thread() -> None:
    table, thing = Tickets[Thing](), Thing()
    with table.issued(thing) as number:
        assert table.redeem(number) is thing
        with ThreadPoolExecutor(1) as pool:  # a GPU's gradients are computed in a thread of their own
            assert pool.submit(table.redeem, number).result() is thing
    assert table.redeem(number) is None


def test_no_number_is_given_twice() -> None:
    table = Tickets[Thing]()
    with table.issued(Thing()) as first:
        pass
    with table.issued(Thing()) as second:
        assert table.redeem(first) is None
    assert first != second


def test_the_block_holds_the_thing_and_the_table_does_not_lead_to_it() -> None:
    table, thing = Tickets[Thing](), Thing()
    is_gone = weakref.ref(thing)
    with table.issued(thing) as number:
        del thing
        gc.collect()
        assert table.redeem(number) is not None
        assert not [found for found in reachable(table) if isinstance(found, Thing)]
    gc.collect()
    assert is_gone() is None


def test_a_lent_function_calls_and_leads_to_nothing_of_what_it_calls() -> None:
    thing = Thing()
    with lent(thing.tell) as tell:
        tell(3)
        assert not [found for found in reachable(tell) if isinstance(found, Thing)]
    assert thing.told == [3]


def test_a_lent_function_is_dead_after_its_block() -> None:
    thing = Thing()
    with pytest.raises(ZeroDivisionError), lent(thing.tell) as tell:
        raise ZeroDivisionError
    with pytest.raises(AccessError, match="only while the method trains"):
        tell(3)
    assert thing.told == []
