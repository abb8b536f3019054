# The server in a container: docs/how-to/deploy.md. `make lint` checks these lines with hadolint.
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Where torch comes from: this is the CPU's. For CUDA: --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_EXTRA_INDEX_URL=${TORCH_INDEX} \
    PIP_CONSTRAINT=constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
WORKDIR /source
# First what is large and changes rarely, as a layer of its own.
COPY constraints.txt ./
RUN /opt/venv/bin/pip install --no-cache-dir torch
COPY . .
RUN /opt/venv/bin/pip install --no-cache-dir '.[serve,formats]'

FROM ${PYTHON_IMAGE}
# LightGBM links against it, and this image lacks it.
# hadolint ignore=DL3008 # no version: Debian's mirrors drop old ones, and the build would break
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent serpipe \
    && install --directory --owner serpipe /cache
COPY --from=build /opt/venv /opt/venv
# What is served unless a model is mounted over it; SageMaker puts its own here.
COPY artifacts/default_bundle /opt/ml/model
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache \
    SERPIPE_HOST=0.0.0.0 \
    SERPIPE_PORT=8080 \
    SERPIPE_MODEL=/opt/ml/model
# Encoders of the hub; nothing is written there for one that is built in or mounted.
VOLUME ["/cache"]
WORKDIR /opt/ml
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; server = http.client.HTTPConnection('127.0.0.1', int(os.environ['SERPIPE_PORT']), timeout=5); server.request('GET', '/healthz'); sys.exit(server.getresponse().status != 200)"]
# SageMaker calls the image with `serve` alone: all else is told by the environment.
ENTRYPOINT ["serpipe"]
CMD ["serve"]
