# The CPU service. Kernels are compiled when the image is built, so a container starts in about two seconds.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY tests/data/NOTICE tests/data/NOTICE
COPY proto proto
COPY clients/python clients/python
COPY service service
RUN python3 -m venv /opt/gumball && /opt/gumball/bin/pip install --no-cache-dir '.[server]'
# Numba keeps compiled code by processor. A generic name lets every x86-64 machine with AVX2 use what is compiled here.
ARG NUMBA_CPU_NAME=haswell
ARG NUMBA_CPU_FEATURES=
RUN NUMBA_CPU_NAME=$NUMBA_CPU_NAME NUMBA_CPU_FEATURES=$NUMBA_CPU_FEATURES \
    /opt/gumball/bin/python -c "from pathlib import Path; from gumball_server.worker import open_worker; open_worker(Path('/opt/gumball/cache'), 1)"

FROM python:3.11-slim
ARG NUMBA_CPU_NAME=haswell
ARG NUMBA_CPU_FEATURES=
ENV NUMBA_CPU_NAME=$NUMBA_CPU_NAME NUMBA_CPU_FEATURES=$NUMBA_CPU_FEATURES \
    GUMBALL_CACHE_DIR=/opt/gumball/cache GUMBALL_HOST=0.0.0.0 GUMBALL_GRACE_SECONDS=5
COPY --from=build /opt/gumball /opt/gumball
USER 10001
EXPOSE 8000 8001
ENTRYPOINT ["/opt/gumball/bin/gumball", "serve"]
