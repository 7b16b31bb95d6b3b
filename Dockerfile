# Mailsluice in an image: `docker build .`; another Python base by --build-arg BASE=...
ARG BASE=python:3.12-slim

# Everything is built in a first image, so that no build tool is in the one that runs.
FROM ${BASE} AS build
WORKDIR /build
COPY requirements/ requirements/
# /venv is copied as it is, hence the same path in both images.
RUN python3 -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt \
 && /venv/bin/pip install --no-cache-dir --require-hashes --no-build-isolation -r requirements/runtime.txt
COPY pyproject.toml LICENSE ./
COPY schemas/ schemas/
COPY agents/ agents/
COPY streams/ streams/
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${BASE}
COPY --from=build /venv /venv
# State (SQLite, one file per partition) lives in /var/lib/mailsluice: give it a volume.
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/mailsluice mailsluice
USER 10001
WORKDIR /var/lib/mailsluice
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["mailsluice"]
CMD ["--help"]
