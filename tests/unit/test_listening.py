"""Places for connections: nobody takes all of them."""

from __future__ import annotations

from collections.abc import Callable

from datamount.controller.listening import Places


def take_all(places: Places, address: str) -> list[Callable[[], None]]:
    """As many as the address gets, of a thousand that it asks for."""
    return [leave for _ in range(1000) if (leave := places.take(address)) is not None]


def test_who_takes_all_leaves_as_much_to_others() -> None:
    """One address that takes what it can leaves half, a second one half of that; a third still gets some, and what was
    given back is there again, once."""
    places = Places(64)
    assert places.take("idle") is not None
    one = take_all(places, "one")
    assert len(one) == 32
    two = take_all(places, "two")
    assert len(two) == 16
    assert len(take_all(places, "three")) == 8
    assert places.take("one") is None
    for leave in one:
        leave()
        leave()
    assert len(take_all(places, "two")) == 12
    assert len(take_all(places, "one")) == 14
