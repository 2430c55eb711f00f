# docker build -t sqlstream .
FROM debian:12-slim AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY .ci/packages.sh .ci/
RUN . .ci/packages.sh && install_packages "${BUILD_PACKAGES[@]}"
COPY . .
RUN meson setup build --prefix=/usr --libdir=lib
RUN ninja -C build vfs/sqlstream.so vfs/sqlstream-preload.so tools/sqlstream tools/sqlstream-restore
RUN meson install -C build --no-rebuild --strip --tags runtime --destdir /out

FROM debian:12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 libstdc++6 libyaml-cpp0.7 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /
ENTRYPOINT ["sqlstream"]
CMD ["help"]
