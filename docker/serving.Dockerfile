# Ray with the serving package, for heads and workers: docker build -f docker/serving.Dockerfile -t ghcr.io/autoglm/serving:0.1.0 .
# EXTRAS chooses the engines: serving (transformers), or serving,vllm.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
ARG EXTRAS=serving
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-pip python3-venv \
    && python3 -m venv /uv && /uv/bin/pip install --no-cache-dir 'uv>=0.9,<1' \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
ENV UV_PROJECT_ENVIRONMENT=/opt/autoglm UV_PYTHON=/usr/bin/python3 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1
WORKDIR /src
# The libraries change less often than our code: a layer of their own, exactly as the lock file has them.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN /uv/bin/uv sync --frozen --no-dev $(printf ' --extra %s' $(echo "$EXTRAS" | tr , ' ')) --no-install-project
COPY operator operator
COPY serving serving
RUN /uv/bin/uv sync --frozen --no-dev $(printf ' --extra %s' $(echo "$EXTRAS" | tr , ' ')) --no-editable

FROM ${BASE}
# bash, procps and wget: KubeRay's start commands and probes call them.
RUN apt-get update \
    && apt-get install -y --no-install-recommends bash ca-certificates libgomp1 procps python3 wget \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --uid 65532 --create-home --shell /bin/bash autoglm \
    # KubeRay starts Ray in a login shell, which forgets PATH.
    && echo 'export PATH=/opt/autoglm/bin:$PATH' > /etc/profile.d/autoglm.sh
COPY --from=build /opt/autoglm /opt/autoglm
ENV PATH=/opt/autoglm/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/home/autoglm \
    RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 HF_HUB_DISABLE_TELEMETRY=1 VLLM_NO_USAGE_STATS=1
LABEL org.opencontainers.image.title="AutoGLM serving" org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
WORKDIR /home/autoglm
EXPOSE 6379 8000 8265 10001
CMD ["bash"]
