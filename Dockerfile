# The service: `make image`, or `make image DEVICE=cuda` for GPUs. A container needs no writable file system but /tmp, no
# capability and no root. It starts in two seconds: its kernels and modules are compiled when the image is built.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS base
ARG DEVICE=cpu
# What Numba compiles for, whatever processor it finds: x86-64 with AVX2, of any make. ARM needs CPU=generic.
ARG CPU=x86-64-v3
ENV PATH=/opt/gumball/bin:$PATH PYTHONPYCACHEPREFIX=/opt/gumball/modules \
    NUMBA_CPU_NAME=$CPU NUMBA_CPU_FEATURES= TRITON_CACHE_DIR=/tmp/triton \
    GUMBALL_DEVICE=$DEVICE GUMBALL_CACHE_DIR=/opt/gumball/kernels GUMBALL_HOST=0.0.0.0 GUMBALL_GRACE_SECONDS=5

FROM base AS build
# The age of all that is installed, which compiled modules hold.
ARG SOURCE_DATE_EPOCH=1767225600
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY tests/data/NOTICE tests/data/NOTICE
COPY proto proto
COPY clients/python clients/python
COPY service service
COPY deploy/image deploy/image
# The secret is for who has packages from somewhere else than PyPI, and need not be given.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    case $GUMBALL_DEVICE in cpu) extras=server,tracing ;; cuda) extras=server,tracing,cuda ;; *) echo 'DEVICE: cpu or cuda'; exit 1 ;; esac \
 && python3 -m venv --without-pip /opt/gumball \
 && pip --python /opt/gumball/bin/python install --no-cache-dir --no-compile --constraint deploy/image/constraints.txt ".[$extras]" \
 && find /opt/gumball/lib -type d -name tests -prune -exec rm -r {} + \
 && find /opt/gumball -exec touch --no-dereference --date @$SOURCE_DATE_EPOCH {} + \
 && rm -rf $PYTHONPYCACHEPREFIX \
 && python deploy/image/compile.py

FROM base
# Triton builds its launcher with a C compiler when it first runs.
RUN if [ $GUMBALL_DEVICE = cuda ]; then \
    apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -r /var/lib/apt/lists/*; fi
COPY --from=build /opt/gumball /opt/gumball
USER 10001:10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-m", "gumball_server.health"]
ENTRYPOINT ["gumball", "serve"]
