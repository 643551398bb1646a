"""The gate for credentials: every rule finds its kind, and ordinary answers pass."""

from __future__ import annotations

import json

import pytest
from tests.caches import answer, chat_body

from cachepolicy.response_cache import Cacheable
from cachepolicy_runtime.answers import refusal
from cachepolicy_runtime.credential_rules import RULES, credential_in

_A = "Ab3dEf6hIj9lMn2pQr5tUv8xYz1C"

#: Made up, in the published forms; put together here so that scanners of this repository do not find one.
SAMPLES = {
    "private-key": "-----BEGIN RSA PRIVATE " + "KEY-----\n" + "MIIEpAIBAAKCAQEA" * 5,
    "aws-access-key": "AKIA" + "Z7QW2ERT5YUI3OPA",
    "aws-session-key": "ASIA" + "Z7QW2ERT5YUI3OPA",
    "google-api-key": "AIza" + (_A + _A)[:35],
    "google-client-secret": "GOCSPX-" + _A,
    "google-access-token": "ya29." + _A * 2,
    "azure-client-secret": "abc8Q~" + _A + "abcd",
    "azure-connection": "AccountName=x;AccountKey=" + "Ab3/" * 21 + "Ab==",
    "digitalocean": "dop_v1_" + "0a1b" * 16,
    "openai-anthropic-openrouter": "sk-ant-api03-" + _A * 3,
    "huggingface": "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh",
    "groq": "gsk_" + _A * 2,
    "github-fine-grained": "github_pat_" + _A * 3,
    "gitlab": "glpat-" + _A[:20],
    "npm": "npm_" + (_A * 2)[:36],
    "pypi": "pypi-AgE" + _A * 2,
    "docker": "dckr_pat_" + _A,
    "slack": "xoxb-" + "1234567890-" + _A,
    "slack-webhook": "https://hooks.slack" + ".com/services/T01234567/B01234567/" + _A,
    "stripe": "sk_" + "live_" + _A,
    "sendgrid": "SG." + _A[:22] + "." + (_A * 2)[:43],
    "telegram": "123456789:AA" + (_A * 2)[:33],
    "shopify": "shpat_" + "0a1b" * 8,
    "databricks": "dapi" + "0a1b" * 8,
    "atlassian": "ATATT3" + _A * 7,
    "grafana": "glsa_" + (_A * 2)[:32] + "_0a1b2c3d",
    "vault": "hvs." + _A,
    "age": "AGE-SECRET-KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" * 2,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0." + _A,
    "url-password": "postgres://core:" + "kT7-wq90xZ" + "@db.internal/core",
    "github": "ghp_" + (_A * 2)[:36],
}

ORDINARY = (
    "A password should be long; never commit your secret key. Use AKIA… keys sparingly.",
    "-----BEGIN PRIVATE KEY-----\n(base64 of the key)\n-----END PRIVATE KEY-----",
    "AKIAIOSFODNN7EXAMPLE is the sample that Amazon's documentation uses.",
    "Set OPENAI_API_KEY=sk-... and Authorization: Bearer YOUR_TOKEN.",
    "postgresql://user:password@localhost:5432/db and redis://:<password>@host:6379/0",
    "https://user:${TOKEN}@example.com/repo.git and mysql://root:changeme1@db",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "550e8400-e29b-41d4-a716-446655440000, c3ab8ff13720e8ad9047dd39466b3c8974e592c2",
    "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ" * 20,
    "See https://example.com/a:b@c and mail to someone@example.com at 10:30:AA",
)


@pytest.mark.parametrize("name", [*(rule.name for rule in RULES), "github"])
def test_a_rule_finds_its_kind_within_a_text(name: str) -> None:
    """In the JSON of an answer, where a line break is two characters."""
    text = json.dumps({"content": f"Here it is: {SAMPLES[name]}\nKeep it safe."}).encode()
    assert credential_in(text) == name


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_passes(text: str) -> None:
    """An answer that is not stored costs a call each time."""
    assert credential_in(json.dumps({"content": text}).encode()) is None


@pytest.mark.parametrize("prefix", ["sk-proj-", "sk-"])
def test_keys_of_openai_are_told_by_what_stands_in_all_of_them(prefix: str) -> None:
    assert credential_in(f"{prefix}{_A[:20]}T3Blbk{'FJ'}{_A[:20]}".encode()) is not None


def test_an_answer_that_holds_a_credential_is_never_stored() -> None:
    """Whatever else is right with it."""
    body = chat_body(f"Your token is {SAMPLES['github']}.")
    assert refusal(answer(body), Cacheable()) == "credential"
    assert refusal(answer(chat_body("Your token is safe.")), Cacheable()) is None
