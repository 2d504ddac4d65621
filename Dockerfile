FROM python:3.11-slim AS build
RUN pip install --no-cache-dir "uv>=0.9,<1"
WORKDIR /build
RUN uv venv /opt/runstream
ENV VIRTUAL_ENV=/opt/runstream

# What runs in production and no more, in the versions and with the hashes of the lock.
COPY pyproject.toml requirements.lock ./
RUN uv pip install --no-cache --compile-bytecode --constraint requirements.lock --requirements pyproject.toml

COPY README.md LICENSE ./
COPY migrations migrations
COPY src src
RUN uv pip install --no-cache --compile-bytecode --no-deps .


FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin runstream
COPY --from=build /opt/runstream /opt/runstream
ENV PATH=/opt/runstream/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /var/empty
USER 10001
EXPOSE 8000

# For the API on its usual port: who runs something else with this image gives a check of his own, or none.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]

# Without a shell between, SIGTERM reaches the process: streams are told to go on elsewhere, generations are handed on.
ENTRYPOINT ["runstream"]
CMD ["api", "--host", "0.0.0.0"]
