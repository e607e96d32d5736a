FROM python:3.13-slim AS build

# The lock file alone, so that a change of the code leaves the slow layer in the cache. The base image's pip installs
# into an environment without one, and only wheels, because there is no compiler.
# `--build-arg REQUIREMENTS=requirements-otel.lock` adds the packages of traces.
ARG REQUIREMENTS=requirements.lock
COPY ${REQUIREMENTS} /requirements.lock
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary=:all: --require-hashes --requirement /requirements.lock

# File modes follow the umask of the checkout, but the files must be readable by a user who owns none of them. The
# sources never change, so the bytecode need not be checked against them.
WORKDIR /app
COPY sql/ sql/
COPY service/ service/
RUN chmod -R u=rwX,go=rX . \
    && python -m compileall -q --invalidation-mode unchecked-hash service


FROM python:3.13-slim

# A new volume takes over the owner and the mode of the directory that it is mounted on.
RUN groupadd --gid 10001 service \
    && useradd --uid 10001 --gid service --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin service \
    && install --directory --owner=service --group=service --mode=0700 /data

WORKDIR /app
COPY --from=build /venv /venv
COPY --from=build /app ./

ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    DATA_DIRECTORY=/data

# A number, so that a platform can check that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# Not with urllib.request, which would use a proxy that the environment names. Not /health/ready either: a restart of
# this container does not bring a database back.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-c", "\
import http.client, os; \
connection = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=2); \
connection.request('GET', '/health/live'); \
raise SystemExit(connection.getresponse().status != 200)"]

ENTRYPOINT ["python", "-m", "service"]
