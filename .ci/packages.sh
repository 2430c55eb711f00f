# Debian packages, and how to get them. Sourced by ./quickstart and ./check.

# What a build and the main job need.
BUILD_PACKAGES=(
  g++ meson ninja-build pkg-config
  libboost1.81-dev libboost-url1.81-dev
  libssl-dev liblz4-dev libxxhash-dev libpugixml-dev libyaml-cpp-dev libsqlite3-dev
  libspdlog-dev nlohmann-json3-dev doctest-dev
  sqlite3 ca-certificates
)

# What the tests and the other checks need besides.
TEST_PACKAGES=(
  ccache clang-14 clang-tidy-14 clang-format-14 libclang-rt-14-dev llvm-14
  python3 python3-venv python3-pytest python3-pytest-xdist python3-boto3
  git lz4 openssl strace binutils procps util-linux
  ruby ruby-sqlite3 ruby-rack puma systemd
  man-db zsh fish
)

# Installs those of the named packages that are missing; does nothing, quickly, when none is.
install_packages() {
  local name state
  local missing=() runner=()
  for name in "$@"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)
    [[ $state == installed ]] || missing+=("$name")
  done
  if ((${#missing[@]} == 0)); then return 0; fi

  if ! command -v apt-get >/dev/null; then
    echo "This script installs packages with apt-get, which is not here; install these and run it" \
      "again: ${missing[*]}" >&2
    return 1
  fi
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      echo "These packages are missing; run this as root, or install them: ${missing[*]}" >&2
      return 1
    fi
    runner=(sudo)
  fi
  echo "==> installing ${missing[*]}"
  "${runner[@]}" apt-get update -qq </dev/null
  "${runner[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}
