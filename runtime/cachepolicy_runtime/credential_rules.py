"""Which text is a credential: the gate that keeps them out of the response cache. Pure.

A rule knows one kind of credential by its own form, so that prose about passwords passes. The forms are those that
gitleaks (gitleaks/gitleaks, config/gitleaks.toml), detect-secrets (Yelp/detect-secrets, plugins) and the issuers
publish. Left out on purpose: everything that is told only by a word nearby or by its entropy (hashes, ids and
base64 in ordinary answers look the same).

Looking is linear in the length of the text: a rule's expression runs only where its mark occurs, every repetition in
it is bounded or ends at a character that it cannot hold, and a mark costs two to four microseconds for 4 KB.

A new rule is a line in :data:`RULES` and one in the table of its test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of credential.

    Attributes:
        name: of the kind, for tests.
        mark: a literal part that every such credential has.
        form: the whole of it.
    """

    name: str
    mark: bytes
    form: re.Pattern[bytes]


def _rule(name: str, mark: str, form: str) -> Rule:
    return Rule(name, mark.encode(), re.compile(form.encode()))


#: Bodies are JSON: a line break is the two characters ``\\n``.
RULES = (
    # The key itself has to follow: answers that explain the format show the first line alone.
    _rule(
        "private-key",
        "PRIVATE KEY",
        r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----[\sA-Za-z0-9+/=\\:,-]{64}",
    ),
    # Clouds. Amazon's own documentation ends its sample in EXAMPLE.
    _rule("aws-access-key", "AKIA", r"\bAKIA(?![A-Z2-7]{9}EXAMPLE)[A-Z2-7]{16}\b"),
    _rule("aws-session-key", "ASIA", r"\bASIA(?![A-Z2-7]{9}EXAMPLE)[A-Z2-7]{16}\b"),
    _rule("google-api-key", "AIza", r"\bAIza[\w-]{35}"),
    _rule("google-client-secret", "GOCSPX-", r"\bGOCSPX-[\w-]{28}"),
    _rule("google-access-token", "ya29.", r"\bya29\.[\w-]{40}"),
    _rule("azure-client-secret", "8Q~", r"[\w~.]{3}8Q~[\w~.-]{31}"),
    _rule("azure-connection", "Key=", r"\b(?:Account|SharedAccess)Key=[A-Za-z0-9+/]{43,86}="),
    _rule("digitalocean", "_v1_", r"\bdo[opr]_v1_[0-9a-f]{64}"),
    # Providers of models.
    _rule(
        "openai-anthropic-openrouter",
        "sk-",
        r"\bsk-(?:ant-(?:api|admin|oat)\d\d-[\w-]{80}|or-v1-[0-9a-f]{64}|[\w-]{20,110}T3BlbkFJ[\w-]{20})",
    ),
    _rule("huggingface", "hf_", r"\bhf_[A-Za-z]{34}"),
    _rule("groq", "gsk_", r"\bgsk_[A-Za-z0-9]{52}"),
    # Code and packages.
    _rule("github-fine-grained", "github_pat_", r"\bgithub_pat_\w{82}"),
    _rule("gitlab", "glpat-", r"\bglpat-[\w-]{20}"),
    _rule("npm", "npm_", r"\bnpm_[A-Za-z0-9]{36}"),
    _rule("pypi", "pypi-AgE", r"\bpypi-AgE[\w-]{50}"),
    _rule("docker", "dckr_pat_", r"\bdckr_pat_[\w-]{27}"),
    # Services.
    _rule("slack", "xox", r"\bxox[baprse]-[0-9]{8,14}-[0-9A-Za-z-]{16}"),
    _rule("slack-webhook", "hooks.slack.com/", r"hooks\.slack\.com/(?:services|workflows)/[\w+/-]{40}"),
    _rule("stripe", "k_live_", r"\b[rs]k_live_[A-Za-z0-9]{20}"),
    _rule("sendgrid", "SG.", r"\bSG\.[\w-]{22}\.[\w-]{43}"),
    _rule("telegram", ":AA", r"\b[0-9]{8,10}:AA[\w-]{33}\b"),
    _rule("shopify", "shp", r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    _rule("databricks", "dapi", r"\bdapi[0-9a-f]{32}"),
    _rule("atlassian", "ATATT3", r"\bATATT3[\w=-]{180}"),
    _rule("grafana", "glsa_", r"\bglsa_[A-Za-z0-9]{32}_[0-9a-f]{8}"),
    _rule("vault", "hvs.", r"\bhvs\.[\w-]{24}"),
    _rule("age", "AGE-SECRET", r"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    # Of any issuer: a token of three parts, and a password in a URL that is no placeholder.
    _rule("jwt", ".eyJ", r"[\w-]{10}\.eyJ[\w-]{10,}\.[\w-]{16}"),
    _rule(
        "url-password",
        "://",
        r"://[^\s/:@\"'<>\\]{0,64}:(?!(?i:pass|your|secret|changeme|example|x{4}|\*{4}))[^\s/:@\"'<>{}$%\\\[\]]{8,128}@",
    ),
)

#: Five kinds that differ in one letter; an expression that begins with literals is as fast as a mark.
_GITHUB = re.compile(rb"gh[opusr]_[A-Za-z0-9]{36}")


def credential_in(text: bytes) -> str | None:
    """The name of the first rule that finds a credential in ``text``; None where there is none."""
    if _GITHUB.search(text):
        return "github"
    for rule in RULES:
        if rule.mark in text and rule.form.search(text):
            return rule.name
    return None
