# Images of the Rephrase Operator; `make images` builds all three.
#
#   operator   the operator, without any ML package
#   driver     the runner without an engine: drivers, and workers of the engine Echo
#   runner     the runner on an image that has vLLM: workers
#
# Packages are those of uv.lock. All three run as user 65532 with a read-only root; what they write goes to /tmp,
# /dev/shm and $HOME, which a pod mounts. On a network with a certificate authority of its own add
# `--secret id=ca,src=FILE`: it takes the place of the base's certificates while packages are fetched.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.9
ARG BASE=docker.io/vllm/vllm-openai:v0.32.0

FROM ${UV_IMAGE} AS uv

# -- environments, which the images take as one folder ---------------------------------------------------------
FROM ${PYTHON_IMAGE} AS source
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_PROJECT_ENVIRONMENT=/opt/rephrase UV_PYTHON=python3 UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy UV_NO_CACHE=1 UV_SYSTEM_CERTS=1
WORKDIR /source
COPY . .

# Bytecode is made here, since a read-only root takes none: of what the operator imports by importing it, for that of the
# whole Kubernetes client is larger than all else.
FROM source AS operator-environment
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    uv sync --locked --no-dev --no-editable --extra operator \
 && /opt/rephrase/bin/python -c 'import rephrase_operator.__main__, rephrase_operator.handlers'

FROM source AS driver-environment
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    uv sync --locked --no-dev --no-editable --extra runner --compile-bytecode

FROM source AS wheel
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    uv build --wheel --out-dir /wheel \
 && uv export --locked --no-dev --extra runner --extra fast-tokenizer --no-emit-project --no-hashes --quiet \
      --output-file /wheel/locked.txt

# -- images ----------------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS slim
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN echo 'rephrase:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd
ENV PATH=/opt/rephrase/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /tmp

FROM slim AS operator
LABEL org.opencontainers.image.title="rephrase-operator" \
      org.opencontainers.image.description="Runs RephraseRuns on Kubernetes"
COPY --from=operator-environment /opt/rephrase /opt/rephrase
CMD ["rephrase-operator"]

FROM slim AS driver
LABEL org.opencontainers.image.title="rephrase-driver" \
      org.opencontainers.image.description="Plans RephraseRuns and publishes what they made"
COPY --from=driver-environment /opt/rephrase /opt/rephrase
CMD ["rephrase", "--help"]

FROM ${BASE} AS runner
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rephrase-runner" \
      org.opencontainers.image.description="Works on RephraseRuns with vLLM" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 0:0
# What the base has goes in as constraints, so a package that would change vLLM, torch or anything else of it ends the
# build in the resolver's words; what the base lacks is taken as locked. The name of the user is for torch, which asks.
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=bind,from=uv,source=/uv,target=/mnt/uv \
    --mount=type=bind,from=wheel,source=/wheel,target=/mnt/wheel \
    uv() { UV_SYSTEM_CERTS=1 /mnt/uv --no-cache pip "$@" --python "$(command -v python3)"; } \
 && uv list --format freeze > /tmp/base.txt \
 && { grep -q '^vllm==' /tmp/base.txt || { echo 'BASE has no vLLM: name an image that has, such as vllm/vllm-openai' >&2; exit 1; }; } \
 && awk -F '==' 'NR == FNR { has[$1]; next } !($1 in has)' /tmp/base.txt /mnt/wheel/locked.txt > /tmp/lacking.txt \
 && uv install --break-system-packages --constraints /tmp/base.txt --constraints /tmp/lacking.txt \
      "rephrase[runner,fast-tokenizer] @ file://$(echo /mnt/wheel/*.whl)" \
 && rephrase --version \
 && uv list --format freeze > /tmp/now.txt \
 && { ! grep -vxFf /tmp/now.txt /tmp/base.txt || { echo 'these of BASE would change' >&2; exit 1; }; } \
 && rm -f /tmp/base.txt /tmp/lacking.txt /tmp/now.txt /tmp/uv-*.lock \
 && echo 'rephrase:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd
ENV PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT []
CMD ["rephrase", "--help"]
