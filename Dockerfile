# Headgate as an image: one venv from the lock, no package manager, a user that is not root, a tree that nobody writes to.
# docs/install.md says how it is built and run; tests/project/test_image.py carries out every step without an engine.

# The Python that the lock is made for and the tests run on. A tag moves: whoever builds should put a digest here,
# --build-arg BASE=python:3.11-slim@sha256:… --build-arg BUILDER=python:3.11@sha256:…
ARG BASE=python:3.11-slim
# The same Python on the same Debian, with a C compiler. Of it nothing gets into the image.
ARG BUILDER=python:3.11

FROM ${BUILDER} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.lock requirements/runtime.lock requirements/
# Wheels alone and each by its hash. What compiles and builds Headgate's own wheel goes beside pip, and stays in this
# stage with it.
RUN python -m pip install --quiet --require-hashes --no-deps --only-binary :all: --no-compile \
    -r requirements/build.lock
RUN python -m venv --without-pip /opt/headgate \
    && python -m pip --python /opt/headgate/bin/python install --quiet --require-hashes --no-deps \
       --only-binary :all: --no-compile -r requirements/runtime.lock
COPY pyproject.toml setup.py LICENSE README.md ./
COPY proxy proxy
COPY flags flags
COPY browser browser
# Of packages that are installed for it alone, the compiler reads the types.
RUN PYTHONPATH=$(echo /opt/headgate/lib/python3.*/site-packages) HEADGATE_COMPILED=1 \
    python -m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /dist . \
    && python -m pip --python /opt/headgate/bin/python install --quiet --no-deps --no-compile \
       --no-index --find-links /dist headgate
# Some packages bring their own tests and static libraries. Bytecode is made here, since nobody can write it later; it
# is not held against its source, which cannot change either.
RUN find /opt/headgate -depth \( -type d -name tests -o -type f -name '*.a' \) -exec rm -rf '{}' + \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/headgate/lib

FROM ${BASE}
# Where this comes from, and of which commit: only those who build it know.
ARG SOURCE=""
ARG REVISION=""
LABEL org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.title="Headgate" \
      org.opencontainers.image.description="Streams the answers of an unchanged batch API" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# The base has pip, and a copy of it within ensurepip; its own bytecode it has not, which costs each start a second.
RUN python -m pip uninstall --quiet --yes --root-user-action ignore pip setuptools wheel \
    && rm -rf /usr/local/lib/python3.*/ensurepip \
    && python -m compileall -q -j 0 /usr/local/lib
COPY --from=builder /opt/headgate /opt/headgate
# Fails here, and not when it starts, where the builder had another Python or a newer C library.
RUN /opt/headgate/bin/python -B -P -c "import proxy.gateway as hot; assert not hot.__file__.endswith('.py')"
# PYTHONSAFEPATH: a file in the working directory is never taken for a module.
ENV PATH=/opt/headgate/bin:${PATH} \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HEADGATE_LIVEZ=http://127.0.0.1:9464/livez
WORKDIR /etc/headgate
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
# The one thing that is written: a directory under /tmp, for the local kill switch and the figures of the workers.
# With a read-only root it needs a tmpfs or an emptyDir there.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-I", "-S", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(os.environ['HEADGATE_LIVEZ'], timeout=3)"]
ENTRYPOINT ["headgate"]
CMD ["serve", "--config", "/etc/headgate/headgate.yaml"]
