"""A combined stamp that is remembered is the one that would be worked out."""

from __future__ import annotations

from cachepolicy.purge import Purge
from cachepolicy.stamps import Scope, combine
from cachepolicy_runtime import caching
from cachepolicy_runtime.caching import CombinedStamps

SCOPE = Scope("responses", "acme", "openai", "gpt-x")


def test_it_is_the_contracts_stamp_the_first_time_and_after() -> None:
    """With and without a purge in the policy."""
    for purge in (None, Purge(all="1")):
        combined = CombinedStamps({"all": "1"}, purge)
        assert combined.of(SCOPE) == combined.of(SCOPE) == combine(SCOPE, {"all": "1"}, purge)


def test_it_holds_only_for_the_state_it_was_made_for() -> None:
    """Any other stamp or purge needs a new one."""
    combined = CombinedStamps({"all": "1"}, Purge(all="1"))
    assert combined.hold_for({"all": "1"}, Purge(all="1"))
    assert not combined.hold_for({"all": "2"}, Purge(all="1"))
    assert not combined.hold_for({"all": "1"}, None)


def test_names_of_models_cannot_fill_the_memory() -> None:
    """A caller chooses the model's name."""
    combined = CombinedStamps({"all": "1"}, None)
    for number in range(caching._MAX_SCOPES + 10):
        combined.of(Scope(model=f"m{number}"))
    assert len(combined._known) <= caching._MAX_SCOPES
