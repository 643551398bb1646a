"""Core as ``mc`` sees it: where it is, what opens it, and its answers as plain JSON or one sentence of failure."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cachepolicy_cli.failure import Exit, Failure

MAX_SECRET_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Which Core, and how to talk to it.

    Attributes:
        url: its base URL; the endpoints are below ``cache_path``.
        token_file, api_key_file: where the admin token and the API key are; read when they are needed.
        ca_file: certificates to trust besides the system's.
        timeout_s: longest time without an answer, in seconds.
    """

    url: str
    cache_path: str
    token_file: Path | None
    api_key_file: Path | None
    ca_file: Path | None
    timeout_s: float

    @property
    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.ca_file is not None:
            try:
                context.load_verify_locations(self.ca_file)
            except OSError as error:
                raise Failure(f"--ca-file {self.ca_file}: {reason_of(error)}", Exit.USAGE) from None
        return context

    def admin(self) -> dict[str, str]:
        """The header that opens what changes something."""
        return _bearer(self.token_file, "--token-file", "MC_TOKEN_FILE", "the admin token")

    def caller(self) -> dict[str, str]:
        """The header of a caller of Core's own API; empty where no key is named."""
        if self.api_key_file is None:
            return {}
        return _bearer(self.api_key_file, "--api-key-file", "MC_API_KEY_FILE", "an API key")


class Core:
    """One connection to Core (``with``)."""

    def __init__(self, place: Place, transport: httpx.BaseTransport | None = None) -> None:
        self.place = place
        self._http = httpx.Client(
            base_url=place.url,
            timeout=place.timeout_s,
            verify=place.tls if place.url.startswith("https:") else True,
            transport=transport,
        )

    def __enter__(self) -> Core:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        return self._ask("GET", path, {}, None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Something that needs the admin token."""
        return self._ask("POST", path, self.place.admin(), body)

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        where = f"{self.place.cache_path}{path}"
        try:
            reply = self._http.request(method, where, headers=dict(headers), json=body)
        except httpx.HTTPError as error:
            raise Failure(unreachable(self.place.url, error)) from None
        if reply.status_code != httpx.codes.OK:
            raise Failure(refused(reply))
        return _json_object(reply)


def unreachable(url: str, error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"{url} does not answer in time."
    reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return f"{url} cannot be reached: {reason}."


def refused(reply: httpx.Response) -> str:
    """What Core says about it (RFC 9457, or an error in the shape of OpenAI or Anthropic)."""
    try:
        content = reply.json()
        said = content.get("detail") or content["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        said = "there is no CachePolicy endpoint here" if reply.status_code == 404 else "no reason given"
    return f"{reply.request.url} answered {reply.status_code}: {said}"


def reason_of(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _json_object(reply: httpx.Response) -> dict[str, Any]:
    try:
        content = reply.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise Failure(f"{reply.request.url} answered something else than a JSON object.")
    return content


def _bearer(file: Path | None, option: str, variable: str, what: str) -> dict[str, str]:
    if file is None:
        raise Failure(f"This needs {what}: name its file by {option} or {variable}.", Exit.USAGE)
    try:
        secret = file.read_bytes()[:MAX_SECRET_BYTES].strip()
    except OSError as error:
        raise Failure(f"{option} {file}: {reason_of(error)}", Exit.USAGE) from None
    if not secret.isascii() or not secret or any(byte < 33 for byte in secret):
        raise Failure(f"{option} {file} does not hold {what} in one line.", Exit.USAGE)
    return {"Authorization": f"Bearer {secret.decode('ascii')}"}


def read_json(file: str, standard_input: Any) -> dict[str, Any]:
    """The JSON object in a file; ``-`` is standard input."""
    try:
        text = standard_input.read() if file == "-" else Path(file).read_text("utf-8")
        content = json.loads(text)
    except OSError as error:
        raise Failure(f"{file}: {reason_of(error)}", Exit.USAGE) from None
    except ValueError as error:
        raise Failure(f"{file} is not JSON: {error}", Exit.USAGE) from None
    if not isinstance(content, dict):
        raise Failure(f"{file} must hold a JSON object.", Exit.USAGE)
    return content
