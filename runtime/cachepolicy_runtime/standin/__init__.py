"""A stand-in for an LLM provider, for trials and tests: ``python -m cachepolicy_runtime.standin``.

It speaks the OpenAI API (chat completions, completions, responses, embeddings) and Anthropic's messages, whole and
streamed, takes a visible time for each call, and answers the same request with the same content every time.
``GET /counts`` says how often it was asked, which shows what a cache saved. A request may ask it to fail
(``knobs.py``).
"""

from cachepolicy_runtime.standin.app import create_app
from cachepolicy_runtime.standin.vectors import vector

__all__ = ["create_app", "vector"]
