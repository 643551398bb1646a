"""``/cache``: what people, alarms and ``mc`` ask a running Core.

===================  ===============  ===========================================================================
``GET /health``      nobody asked     200, ``up`` or ``degraded`` with the reasons: Core answers in both cases
``GET /stats``       nobody asked     what this process did and what it enforces; no tenant, key or prompt
``GET /metrics``     nobody asked     the same for Prometheus
``GET /openapi.json``  nobody asked   this table for programs (OpenAPI 3.1)
``POST /clear``      the admin token  empties ``{"all": true}`` or any combination of kind, tenant, provider, model, tag
``POST /warm``       the admin token  runs requests through the application, for those that are not cached
``POST /explain``    the admin token  tells whether a request would be a hit, and why not
===================  ===============  ===========================================================================
"""

from cachepolicy_runtime.asgi.endpoints.app import Endpoints
from cachepolicy_runtime.asgi.endpoints.explain import Resolve
from cachepolicy_runtime.asgi.endpoints.warm import Warm, WarmRefusedError, WarmRequest

__all__ = ["Endpoints", "Resolve", "Warm", "WarmRefusedError", "WarmRequest"]
