# OnceEdit with its dependencies: `docker build -t onceedit-ray:0.1.0 .`
#
#   docker run -p 8000:8000 --shm-size 2g -v onceedit-home:/home/onceedit -e ONCEEDIT_API_KEYS="$KEY" onceedit-ray:0.1.0
#
# It serves the quickstart's models, whose weights are fetched into the volume at the first start; give another command
# for another run file. Kubernetes starts the same image (deployments/rayservice.yaml). For GPUs take PyTorch's CUDA build:
# `--build-arg TORCH_INDEX=https://pypi.org/simple`.
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# KubeRay's probes call wget.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray \
    && install --directory --owner ray /home/onceedit

WORKDIR /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY onceedit_ray onceedit_ray
RUN pip install --no-cache-dir "$(grep '^torch==' constraints.txt)" --index-url "$TORCH_INDEX" \
    && pip install --no-cache-dir -c constraints.txt '.[serve,plots]'

# What run files and manifests name by relative paths.
COPY configs configs
COPY data data
COPY deployments deployments
COPY jobs jobs

# With the last one, Ray Serve's own errors reach clients in OpenAI's format; `onceedit serve` sets it by itself.
ENV ONCEEDIT_HOME=/home/onceedit RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
ENV RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=onceedit_ray.serving.proxy_guard.middlewares
USER 1000
EXPOSE 8000
CMD ["onceedit", "serve", "--config", "configs/quickstart.yaml", "--host", "0.0.0.0"]
