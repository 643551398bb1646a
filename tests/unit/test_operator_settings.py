"""The operator's environment: defaults, and errors that name the variable and what is allowed."""

from __future__ import annotations

import dataclasses

import pytest

from cachepolicy_operator.settings import LogFormat, OperatorSettings, SettingsError


def test_an_empty_environment_gives_the_defaults() -> None:
    """Nothing has to be set; an empty variable counts as absent."""
    assert OperatorSettings.from_environment({"CACHEPOLICY_WORKERS": " "}) == OperatorSettings()


def test_every_setting_is_read() -> None:
    """One variable for each field, in the units of the contract."""
    settings = OperatorSettings.from_environment(
        {
            "CACHEPOLICY_REDIS_IMAGE": "registry.example.com/redis:7.4@sha256:0",
            "CACHEPOLICY_WATCH_NAMESPACES": "b, a,b",
            "CACHEPOLICY_RESYNC_INTERVAL": "10m",
            "CACHEPOLICY_WORKERS": "4",
            "CACHEPOLICY_REDIS_POLL": "1s",
            "CACHEPOLICY_REDIS_POLL_PENDING": "200ms",
            "CACHEPOLICY_REQUEST_TIMEOUT": "5s",
            "CACHEPOLICY_METRICS_PORT": "9000",
            "CACHEPOLICY_HEALTH_PORT": "9001",
            "POD_NAME": "operator-0",
            "CACHEPOLICY_LOG_FORMAT": "json",
        }
    )
    assert settings == OperatorSettings(
        redis_image="registry.example.com/redis:7.4@sha256:0",
        watch_namespaces=("b", "a"),
        resync_interval=600.0,
        workers=4,
        redis_poll=1.0,
        redis_poll_pending=0.2,
        request_timeout=5.0,
        metrics_port=9000,
        health_port=9001,
        pod_name="operator-0",
        log_format=LogFormat.JSON,
    )


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("CACHEPOLICY_REDIS_IMAGE", "two words", "without spaces"),
        ("CACHEPOLICY_WATCH_NAMESPACES", "good,Bad_One", "'Bad_One'"),
        ("CACHEPOLICY_RESYNC_INTERVAL", "5 minutes", "90s"),
        ("CACHEPOLICY_RESYNC_INTERVAL", "1s", "from 10s to 24h"),
        ("CACHEPOLICY_WORKERS", "0", "from 1 to 64"),
        ("CACHEPOLICY_WORKERS", "٣", "whole number"),
        ("CACHEPOLICY_METRICS_PORT", "tcp://10.0.0.1:80", "from 1 to 65535"),
        ("CACHEPOLICY_LOG_FORMAT", "xml", "text, json"),
    ],
)
def test_a_wrong_value_names_its_variable_and_what_is_allowed(
    variable: str, value: str, allowed: str
) -> None:
    """The person who reads it has only the log of a pod that does not start."""
    with pytest.raises(SettingsError, match=variable) as caught:
        OperatorSettings.from_environment({variable: value})
    assert allowed in str(caught.value)


def test_all_wrong_values_are_named_at_once() -> None:
    """Otherwise each costs a roll of its own."""
    with pytest.raises(SettingsError) as caught:
        OperatorSettings.from_environment({"CACHEPOLICY_WORKERS": "x", "CACHEPOLICY_LOG_FORMAT": "y"})
    assert len(str(caught.value).splitlines()) == 2


def test_two_servers_cannot_share_a_port() -> None:
    """The second would fail at run time with less helpful words."""
    with pytest.raises(SettingsError, match="both 8081"):
        OperatorSettings.from_environment({"CACHEPOLICY_METRICS_PORT": "8081"})


def test_settings_are_frozen() -> None:
    """They are handed to everything; nobody may change them for the others."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        OperatorSettings().workers = 3  # type: ignore[misc]  # what is tested
