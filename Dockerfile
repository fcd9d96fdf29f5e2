# syntax=docker/dockerfile:1
# Two images from one file: `bot` (no torch) and `service`. README.md, "Docker", has the commands.
# pip reads an optional secret as its configuration, for a mirror or for CPU-only builds of torch:
#     docker build --target service --secret id=pip,src=pip.conf .

FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/opt/punchline/bin:$PATH \
    PUNCHLINE_HOME=/state \
    PUNCHLINE_SERVICE__SOCKET=/run/punchline/model.sock \
    HF_HOME=/state/hub
RUN groupadd --gid 10001 punchline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /state --shell /usr/sbin/nologin punchline \
    && install --directory --owner 10001 --group 10001 --mode 0700 /state /run/punchline

FROM base AS source
RUN python -m venv /opt/punchline
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY bot ./bot
COPY model_service ./model_service

FROM source AS built-bot
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt .

# The compiler builds the int8 kernels; the image that runs does not hold it.
FROM source AS built-service
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[service]'

FROM base AS bot
COPY --from=built-bot /opt/punchline /opt/punchline
USER 10001:10001
WORKDIR /state
CMD ["python", "-m", "bot", "bot"]

FROM base AS service
COPY --from=built-service /opt/punchline /opt/punchline
USER 10001:10001
WORKDIR /state
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-m", "model_service", "health"]
CMD ["python", "-m", "model_service", "serve"]
