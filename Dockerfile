# Two images from one file:
#   docker build --target operator --tag cachepolicy-operator:dev .
#   docker build --target core     --tag cachepolicy-core:dev .
# Nothing here needs BuildKit: an ordinary builder (podman, buildah) gives the same images.

FROM docker.io/library/python:3.11-slim AS build
# Same version as in the Makefile.
ARG UV_VERSION=0.13.9
ENV UV_PYTHON=/usr/local/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/cachepolicy \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_COMPILE_BYTECODE=1
WORKDIR /src
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --disable-pip-version-check uv==${UV_VERSION}
COPY pyproject.toml uv.lock ./

# The locked dependencies come before the code, so that a change of code leaves their layer alone.
FROM build AS build-operator
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-install-project --extra operator
COPY README.md LICENSE ./
COPY operator operator
COPY runtime runtime
# Most of the Kubernetes client's bytecode is models that nothing here ever imports: 35 MB.
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-editable --extra operator \
 && find /opt/cachepolicy -path '*/kubernetes/*/models/__pycache__/[!_]*' -delete

FROM build AS build-core
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-install-project --extra gateway
COPY README.md LICENSE ./
COPY operator operator
COPY runtime runtime
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-editable --extra gateway

FROM docker.io/library/python:3.11-slim AS base
# Nothing is installed at run time, so nothing that installs stays.
RUN python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip
# Bytecode is in the image: a read-only root has no room for more. USER: whichever uid runs this has no name in
# /etc/passwd, and kopf asks for one.
ENV PATH=/opt/cachepolicy/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=cachepolicy
WORKDIR /
# Numeric, so that runAsNonRoot can be checked without looking into the image.
USER 65532:65532

FROM base AS operator
LABEL org.opencontainers.image.title="cachepolicy-operator" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-operator /opt/cachepolicy /opt/cachepolicy
ENTRYPOINT ["python", "-m", "cachepolicy_operator"]

FROM base AS core
LABEL org.opencontainers.image.title="cachepolicy-core" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-core /opt/cachepolicy /opt/cachepolicy
EXPOSE 8080
# The stand-in provider of the samples is in the same image: python -m cachepolicy_runtime.standin
CMD ["python", "-m", "cachepolicy_runtime.gateway", "--host", "0.0.0.0", "--port", "8080"]
