# One image for every node. Build it with `docker compose build`, or `docker build -t eightfold .`
#
# BASE: any image with Python 3.11 or newer as `python3`. PIP_OPTIONS: for another package index, or
# `--no-index` where there is none; then `build/wheels` holds what is to be installed, and pip.
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG PIP_OPTIONS=""
# One thread of NumPy each: eight nodes may share a machine. EIGHTFOLD_HEALTH: whom the health check
# asks; the compose file says the port of each node.
ENV PATH=/opt/eightfold/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/eightfold:/wheels/pip.whl \
    PYTHONUNBUFFERED=1 OPENBLAS_NUM_THREADS=1 EIGHTFOLD_HEALTH=127.0.0.1:10817
HEALTHCHECK --interval=20s --timeout=30s --start-period=30s --retries=3 \
    CMD python3 -m admin.health "$EIGHTFOLD_HEALTH"
CMD ["eightfold", "--help"]

# A pattern may match nothing, a name may not; pyproject.toml is there so that something is copied.
COPY pyproject.toml build/wheel[s] /wheels/
# What other people made changes seldom, and is kept by the engine from one build to the next. The
# reports of scenarios are drawn where scenarios are run, which is not here.
RUN set -e; mkdir -p /opt/eightfold /var/lib/eightfold; chown 10001:10001 /var/lib/eightfold; \
    python3 -c 'import tomllib; f = open("/wheels/pyproject.toml", "rb"); \
print(*(each for each in tomllib.load(f)["project"]["dependencies"] if "matplotlib" not in each), \
sep=chr(10))' > /wheels/needed.txt; \
    python3 -m pip install --quiet --no-cache-dir --no-compile --disable-pip-version-check \
      --find-links /wheels ${PIP_OPTIONS} --target /opt/eightfold --requirement /wheels/needed.txt; \
    rm -rf /opt/eightfold/*/tests /opt/eightfold/*/*/tests
COPY . /source
# Imported once, so that what a node needs is compiled here and not at each of its starts.
RUN set -e; made=/source; for wheel in /wheels/eightfold-*.whl; do [ ! -e "$wheel" ] || made=$wheel; done; \
    python3 -m pip install --quiet --no-cache-dir --no-compile --disable-pip-version-check \
      --find-links /wheels ${PIP_OPTIONS} --no-deps --upgrade --target /opt/eightfold "$made"; \
    cd /; eightfold --help > /dev/null; \
    python3 -c 'import admin.health, admin.http, admin.mqtt_plane, node.daemon, uvloop'
# A number, since the name of a user means nothing outside of the image.
USER 10001:10001
