#pragma once

#include <optional>

#include "base/bytes.h"
#include "base/clock.h"
#include "store/s3/sigv4.h"

namespace sqlstream {

struct Credentials {
  sigv4::Keys keys;
  std::optional<Time> expires;  ///< none: they do not
};

/// The document of a container's or an instance's metadata service; nothing when it holds no keys.
/// Pure.
std::optional<Credentials> parse_metadata_credentials(ByteView json);

}  // namespace sqlstream
