# The `wgan` command in a container, on GPUs or the CPU. The host needs NVIDIA's driver and container toolkit for GPUs;
# torch's packages bring their own CUDA libraries.
#
#   docker build --tag wgan-pipeline --build-arg UID=$(id -u) .
#   docker run --rm -v "$PWD/data:/app/data" wgan-pipeline shards make digits data/digits
#   docker run --rm --gpus all --ipc=host --stop-timeout 120 \
#     -v "$PWD/data:/app/data" -v "$PWD/runs:/app/runs" wgan-pipeline train digits
#
# `wgan train` uses all GPUs that the container sees. `docker stop` asks the run to save, and kills it after the stop
# timeout. UID is the user who may write to data and runs (default 1000). For several machines, start Accelerate with
# `--entrypoint accelerate`, as launch/multi_node.sh does.
FROM python:3.12-slim

ARG UID=1000
RUN useradd --uid "$UID" --create-home wgan && mkdir -p /app/data /app/runs && chown -R wgan /app
WORKDIR /app

# The dependencies have a layer of their own: they are large and rarely change.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir pipeline && touch pipeline/__init__.py \
 && pip install --no-cache-dir . \
 && pip uninstall --yes wgan-pipeline \
 && rm -r pipeline

COPY --chown=wgan setup.py ./
COPY --chown=wgan pipeline pipeline
COPY --chown=wgan configs configs
COPY --chown=wgan launch launch
RUN pip install --no-cache-dir --no-deps --editable . && rm -rf build

USER wgan
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["wgan"]
CMD ["--help"]
