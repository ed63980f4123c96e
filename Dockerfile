# syntax=docker/dockerfile:1
# Two stages: the first installs the locked dependencies (each checked against its hash) and builds the project's
# wheel; the second holds the interpreter, that environment, and neither pip nor a build tool.
# The digest is that of the tag's index of all platforms. To move it: `docker buildx imagetools inspect python:3.12-slim`.
ARG PYTHON_IMAGE=python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

# The dependencies first, with the drivers of databases and brokers:
# they change less often than the source, so that a rebuild finds them in the cache.
COPY requirements-image.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/callspool \
    && python -m pip --python /opt/callspool/bin/python install --no-deps --require-hashes --requirement requirements-image.lock \
    && python -m pip install --no-deps --require-hashes --requirement requirements-build.lock

COPY . .
ARG RELEASE_VERSION
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m pip --python /opt/callspool/bin/python install --no-deps --no-index /wheels/*.whl \
    && python -m pip --python /opt/callspool/bin/python check

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="callspool" \
      org.opencontainers.image.description="A durable ingest gateway for the call logs of AI voice agents" \
      org.opencontainers.image.licenses="Apache-2.0"

# A fixed number, so that a volume keeps its owner through rebuilds and Kubernetes can see that it is not root.
RUN groupadd --gid 10001 callspool \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/callspool --shell /usr/sbin/nologin callspool \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/callspool

COPY --from=build /opt/callspool /opt/callspool

# Probes and scrapers reach the admin listener from outside. The intake stays on the loopback address, which
# a sidecar shares with its agent; set CALLSPOOL_INTAKE_LISTEN=0.0.0.0:7717 where the agent is another host.
# These are defaults, which a mounted configuration overrules: variables would overrule it.
COPY deploy/image-defaults.toml /etc/callspool/defaults.toml
ENV PATH=/opt/callspool/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CALLSPOOL_DEFAULTS=/etc/callspool/defaults.toml

USER 10001:10001
WORKDIR /var/lib/callspool
VOLUME /var/lib/callspool
EXPOSE 7717 7718
STOPSIGNAL SIGTERM

# It asks where the settings say that the admin listener is, by TLS where that has a certificate.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["callspool", "health"]

ENTRYPOINT ["callspool"]
CMD ["run"]
