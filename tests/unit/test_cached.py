"""``@runtime.cached``: one result for all who may share it, and never somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr
from tests.clients import ACME, GLOBEX, Trial, trial

from cachepolicy import Identity
from cachepolicy.stamps import Scope
from cachepolicy_runtime import acting_as
from cachepolicy_runtime.cached import keyed
from cachepolicy_runtime.clients.bridge import NotRunningError
from cachepolicy_runtime.jcs import canonical_json
from cachepolicy_runtime.runtime import CacheRuntime


class Summary(BaseModel):
    title: str
    words: int


@dataclass
class Calls:
    """How often a function ran."""

    count: int = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


@pytest.fixture
async def sut() -> AsyncIterator[Trial]:
    async with trial() as made:
        yield made


@pytest.fixture
def runtime(sut: Trial) -> CacheRuntime:
    return sut.runtime


@pytest.fixture
def ran() -> Calls:
    return Calls()


async def test_a_result_is_made_once_for_the_same_arguments(runtime: CacheRuntime, ran: Calls) -> None:
    @runtime.cached(ttl="10m")
    async def summary(document: str, *, words: int = 3) -> Summary:
        return Summary(title=document, words=words + 0 * ran())

    with acting_as(ACME):
        first = await summary("one")
        assert (
            await summary("one", words=3)
            == await summary(document="one")
            == first
            == Summary(title="one", words=3)
        )
        assert ran.count == 1
        await summary("two")
        await summary("one", words=4)
    assert ran.count == 3


async def test_tenants_share_nothing_and_nobody_has_nothing(runtime: CacheRuntime, ran: Calls) -> None:
    @runtime.cached()
    async def answer() -> int:
        return ran()

    for identity in (ACME, ACME, GLOBEX):
        with acting_as(identity):
            await answer()
    assert ran.count == 2
    await answer()
    await answer()
    assert ran.count == 4


async def test_a_user_alone_or_everybody_may_share_it(runtime: CacheRuntime, ran: Calls) -> None:
    @runtime.cached(shared="user")
    async def own() -> int:
        return ran()

    @runtime.cached(shared="all")
    async def common() -> int:
        return ran()

    for user in ("ann", "bob", "ann"):
        with acting_as(Identity("acme", user)):
            await own()
    assert ran.count == 2
    for identity in (ACME, GLOBEX, None):
        with acting_as(identity):
            assert await common() == 3


async def test_who_asks_at_the_same_time_waits_for_one_call(runtime: CacheRuntime, ran: Calls) -> None:
    @runtime.cached()
    async def slow() -> int:
        ran()
        await asyncio.sleep(0)
        return ran.count

    with acting_as(ACME):
        assert await asyncio.gather(*(slow() for _ in range(50))) == [1] * 50


async def test_an_exception_is_the_callers_and_is_not_kept(runtime: CacheRuntime, ran: Calls) -> None:
    @runtime.cached()
    async def fails() -> int:
        if ran() < 3:
            raise LookupError(str(ran.count))
        return ran.count

    with acting_as(ACME):
        for expected in ("1", "2"):
            with pytest.raises(LookupError, match=expected):
                await fails()
        assert await fails() == 3


async def test_the_key_knows_types_apart(runtime: CacheRuntime, ran: Calls) -> None:
    @runtime.cached()
    async def kind(value: Any) -> str:
        ran()
        return type(value).__name__

    values = [
        "1",
        1,
        True,
        None,
        [1],
        {"0": 1},
        b"1",
        UUID(int=1),
        str(UUID(int=1)),
        timedelta(1),
        ["list", 1],
    ]
    with acting_as(ACME):
        for value in values:
            assert await kind(value) == type(value).__name__
        assert await kind(1.0) == "int"
    assert ran.count == len(values)


def test_no_value_is_keyed_like_the_mark_of_another() -> None:
    assert keyed(b"a", "x") != keyed(["bytes", "YQ=="], "x")
    assert keyed({"a": 1}, "x") != keyed(["dict", {"a": 1}], "x")
    assert keyed([], "x") != keyed(["list"], "x")


class Login(BaseModel):
    token: SecretStr
    tries: int = Field(default=0, exclude=True)


@dataclass
class Account:
    login: Login


def _login(token: str, tries: int = 0) -> Login:
    return Login(token=SecretStr(token), tries=tries)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SecretStr("a"), SecretStr("b")),
        (SecretBytes(b"a"), SecretBytes(b"b")),
        (Secret(1), Secret(2)),
        (_login("a"), _login("b")),
        (_login("a", 1), _login("a", 2)),
        (Account(_login("a")), Account(_login("b"))),
        ([SecretStr("a")], [SecretStr("b")]),
        ({1: SecretStr("a")}, {1: SecretStr("b")}),
        ({SecretStr("a")}, {SecretStr("b")}),
    ],
)
def test_what_json_masks_or_leaves_out_is_in_the_key(one: object, other: object) -> None:
    assert canonical_json(keyed(one, "x")) != canonical_json(keyed(other, "x"))
    assert canonical_json(keyed(one, "x")) == canonical_json(keyed(deepcopy(one), "x"))


async def test_arguments_that_change_nothing_are_left_out_of_the_key(
    runtime: CacheRuntime, ran: Calls
) -> None:
    @runtime.cached(ignore=("connection",))
    async def rows(connection: object, table: str) -> list[int]:
        return [ran()]

    @runtime.cached(key=lambda connection, table: table.lower())
    async def more(connection: object, table: str) -> list[int]:
        return [ran()]

    with acting_as(ACME):
        assert await rows(object(), "a") == await rows(object(), "a") == [1]
        assert await more(object(), "a") == await more(object(), "A") == [2]


async def test_an_argument_that_no_key_can_be_made_of_is_named(runtime: CacheRuntime) -> None:
    @runtime.cached(name="rows")
    async def rows(connection: object) -> int:
        return 1

    with (
        acting_as(ACME),
        pytest.raises(TypeError, match=r"argument connection of rows is a builtins.object, .* ignore="),
    ):
        await rows(object())


async def test_a_result_that_json_would_change_is_not_kept_and_told_once(
    runtime: CacheRuntime, ran: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    @runtime.cached(name="pair")
    async def pair() -> Any:
        return (ran(), 2)

    with acting_as(ACME):
        assert [await pair() for _ in range(2)] == [(1, 2), (2, 2)]
    told = [record.getMessage() for record in caplog.records if record.name == "cachepolicy.cached"]
    assert told == ["results of pair are not cached: as JSON they would come back as something else"]


async def test_a_function_has_to_say_what_it_returns(runtime: CacheRuntime) -> None:
    @runtime.cached(name="silent")
    async def silent():  # type: ignore[no-untyped-def]  # that is the point
        return 1

    with acting_as(ACME), pytest.raises(TypeError, match="silent must say what it returns"):
        await silent()


async def test_a_result_of_another_type_is_another_entry(runtime: CacheRuntime) -> None:
    """As after a deployment that changed what the function returns."""

    @runtime.cached(name="same")
    async def before() -> dict[str, int]:
        return {"title": 1}

    @runtime.cached(name="same")
    async def after() -> Summary:
        return Summary(title="new", words=1)

    with acting_as(ACME):
        await before()
        assert (await after()).title == "new"


async def test_a_purge_by_name_or_tag_makes_it_anew(runtime: CacheRuntime, ran: Calls) -> None:
    @runtime.cached(name="page", tags=lambda number: [f"page:{number}"])
    async def page(number: int) -> int:
        ran()
        return number

    with acting_as(ACME):
        for scope in (
            Scope(tags=("page:1",)),
            Scope(provider="functions", model="page"),
            Scope(tenant="acme"),
        ):
            await page(1)
            await page(2)
            await runtime.clear(scope)
        assert ran.count == 2 + 1 + 2
        await runtime.clear(Scope(model="other"))
        await page(1)
        await page(1)
    assert ran.count == 6


async def test_the_policy_goes_before_the_code(tmp_path: Path, ran: Calls) -> None:
    policy = {"responseCache": {"mode": "Off"}}
    async with trial(tmp_path, policy) as sut:

        @sut.runtime.cached()
        async def answer() -> int:
            return ran()

        with acting_as(ACME):
            await answer()
            await answer()
    assert ran.count == 2


async def test_no_old_result_hides_an_exception(tmp_path: Path, ran: Calls) -> None:
    """Whatever the policy says of answers when a provider fails."""
    async with trial(tmp_path, {"responseCache": {"ttl": "1ms", "staleIfError": "1h"}}) as sut:

        @sut.runtime.cached()
        async def answer() -> int:
            if ran() > 3:
                raise LookupError
            return ran.count

        async def until_it_fails() -> None:
            while True:
                assert await answer() == ran.count

        with acting_as(ACME), pytest.raises(LookupError):
            await until_it_fails()


async def test_secrets_are_not_kept(runtime: CacheRuntime, ran: Calls) -> None:
    @runtime.cached()
    async def token() -> str:
        ran()
        return "ghp_" + "a1B2" * 9

    with acting_as(ACME):
        await token()
        await token()
    assert ran.count == 2


def test_wrong_options_are_refused_where_they_are_written(runtime: CacheRuntime) -> None:
    async def answer(number: int) -> int:
        return number

    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(ValueError, match="not a duration"):
        runtime.cached(ttl="1 day")
    with pytest.raises(ValueError, match="longer than nothing"):
        runtime.cached(ttl=timedelta(0))
    with pytest.raises(ValueError, match="nothing to ignore"):
        runtime.cached(key=lambda number: number, ignore=("number",))
    with pytest.raises(ValueError, match="no parameter nmber to ignore"):
        runtime.cached(ignore=("nmber",))(answer)
    with pytest.raises(ValueError, match="return a list"):
        runtime.cached()(numbers)
    with pytest.raises(ValueError, match="1 to 128 characters"):
        runtime.cached(name="x" * 129)(answer)


# --- threads ------------------------------------------------------------------------------------------------


async def test_a_function_without_async_is_for_threads(runtime: CacheRuntime, ran: Calls) -> None:
    @runtime.cached()
    def add(one: int, two: int) -> int:
        ran()
        return one + two

    with acting_as(ACME):
        assert [await asyncio.to_thread(add, 1, 2) for _ in range(2)] == [3, 3]
        with pytest.raises(NotRunningError):
            add(1, 2)
    assert ran.count == 1


async def test_threads_that_wait_need_no_other_thread(runtime: CacheRuntime, ran: Calls) -> None:
    """More callers than the pool has threads: the one that leads runs the function itself."""

    @runtime.cached()
    def slow(number: int) -> int:
        return number + 0 * ran()

    with acting_as(ACME):
        numbers = [number % 7 for number in range(200)]
        assert await asyncio.gather(*(asyncio.to_thread(slow, number) for number in numbers)) == numbers
    assert ran.count == 7


@pytest.mark.parametrize("error", [LookupError, StopIteration])
async def test_what_a_threads_function_raises_comes_to_its_caller(
    runtime: CacheRuntime, error: type[Exception]
) -> None:
    @runtime.cached()
    def fails() -> int:
        raise error

    with acting_as(ACME), pytest.raises((LookupError, RuntimeError)):
        await asyncio.to_thread(fails)
