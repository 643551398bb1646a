"""The reference Core: ``python -m cachepolicy_runtime.gateway``.

An LLM gateway built from the public parts of this package: who calls is known by an API key, limits apply before
anything else, complete answers and embeddings are cached for the caller's tenant, streams are passed through,
and ``/v1/session`` keeps a JSON object for the caller.
"""

from cachepolicy_runtime.gateway.app import create_app

__all__ = ["create_app"]
