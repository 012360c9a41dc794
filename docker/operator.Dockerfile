# The operator: docker build -f docker/operator.Dockerfile -t ghcr.io/autoglm/operator:0.1.0 .
# Base: Debian, because its Python is the same on every builder and on machines without a registry (debootstrap).
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-pip python3-venv \
    && python3 -m venv /uv && /uv/bin/pip install --no-cache-dir 'uv>=0.9,<1' \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
ENV UV_PROJECT_ENVIRONMENT=/opt/autoglm UV_PYTHON=/usr/bin/python3 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1
WORKDIR /src
# The libraries change less often than our code: a layer of their own, exactly as the lock file has them.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN /uv/bin/uv sync --frozen --no-dev --extra operator --no-install-project
COPY operator operator
COPY serving serving
RUN /uv/bin/uv sync --frozen --no-dev --extra operator --no-editable

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=build /opt/autoglm /opt/autoglm
ENV PATH=/opt/autoglm/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
LABEL org.opencontainers.image.title="AutoGLM operator" org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
EXPOSE 8081 9090
ENTRYPOINT ["python", "-m", "autoglm_operator"]
CMD ["--help"]
