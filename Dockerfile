# One image for both roles: `docker run IMAGE serve --role api`, `docker run IMAGE serve --role processor`.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.9

FROM ${UV_IMAGE} AS uv

FROM ${PYTHON_IMAGE} AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/manman-status
WORKDIR /build
# Dependencies change seldom, so they get a layer of their own. Litestar needs faker and polyfactory only for generated
# examples, which this api does not have: leaving them out saves 25 MB.
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --locked --no-dev --extra server --no-install-package faker --no-install-package polyfactory \
        --no-install-project
COPY README.md LICENSE ./
COPY migrations migrations
COPY manman_status manman_status
# Without --reinstall-package uv would take the package from its cache: it compares pyproject.toml only.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --locked --no-dev --extra server --no-install-package faker --no-install-package polyfactory \
        --no-editable --reinstall-package manman-status

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="manman-status" \
      org.opencontainers.image.description="Which workers and game server instances live, told from their own messages." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/manman-status /opt/manman-status
ENV PATH=/opt/manman-status/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["manman-status"]
CMD ["--help"]
