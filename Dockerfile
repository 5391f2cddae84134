# The pipeline on CUDA or the CPU. torch's wheels bring their own CUDA libraries; the host needs NVIDIA's driver
# and container toolkit.
#
#   docker build -t wgan-pipeline .
#   docker run --rm --gpus all --ipc=host -v "$PWD/data:/app/data" -v "$PWD/runs:/app/runs" wgan-pipeline \
#     --num_processes 8 --multi_gpu -m pipeline.train mnist
#   docker run --rm -v "$PWD/data:/app/data" --entrypoint wgan wgan-pipeline shards make digits data/digits
#
# /app/data and /app/runs must be writable for user 1000 (build with --build-arg UID=$(id -u) for another).
FROM python:3.12-slim

ARG UID=1000
RUN useradd --uid "$UID" --create-home wgan && mkdir -p /app/data /app/runs && chown -R wgan /app
WORKDIR /app

# The dependencies alone first: they change seldom and are large.
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
ENTRYPOINT ["accelerate", "launch"]
CMD ["--help"]
