# mcir in a container: PyTorch for CPUs, or for CUDA with another index.
#
#     docker build -t mcir .
#     docker build -t mcir --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#
# The current folder is /data in the container. What mcir writes there belongs to you:
#
#     docker run --rm -it --user "$(id -u)" -v "$PWD:/data" mcir train quickstart
#
# With the CUDA build, add --gpus all. Data workers are faster with --shm-size 2g. The demo needs a port, and an extra:
#
#     docker build -t mcir --build-arg EXTRAS=demo .
#     docker run --rm -it -v "$PWD:/data" -p 7860:7860 mcir demo net_g_800.pth --host 0.0.0.0

FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir torch torchvision --index-url "$TORCH_INDEX"

ARG EXTRAS=
WORKDIR /opt/mcir
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY options options
COPY mcir mcir
RUN pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"

# Downloaded weights are kept in HOME, which any user of --user can write.
RUN useradd --create-home mcir && chmod 777 /home/mcir && install --directory --owner mcir /data
ENV HOME=/home/mcir
USER mcir
WORKDIR /data
ENTRYPOINT ["mcir"]
CMD ["--help"]
