# docker build -t locallearning .
# docker run -it -p 3108:3108 -v "$PWD":/workspace locallearning           Jupyter on the mounted checkout; prints its address with token
# docker run -v "$PWD/runs":/workspace/runs locallearning reproduce        a batch; any locallearning command or program will do
# Add --gpus all where there is a GPU. The user has uid 1000, which must be allowed to write to what is mounted.
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 worker && install -d -o worker /workspace /opt/venv
COPY --chmod=755 tools/entrypoint.sh /usr/local/bin/entrypoint
USER worker
WORKDIR /workspace
ENV VENV=/opt/venv PATH=/opt/venv/bin:$PATH
COPY --chown=worker . .
ARG PIP_FLAGS=""
RUN make venv PIP_FLAGS="--no-cache-dir $PIP_FLAGS"
EXPOSE 3108
ENTRYPOINT ["entrypoint"]
CMD ["notebook"]
