#pragma once

#include <array>
#include <string>
#include <string_view>

#include "base/bytes.h"

/// The few digests S3 needs, from OpenSSL. Thread-safe. What OpenSSL cannot do now is a StoreError
/// (Kind::unavailable).
namespace sqlstream::crypto {

/// Readies OpenSSL without an exit handler of its own: as a guest in another program it must not
/// be torn down under threads that still run. Called by everything here and before TLS.
void initialise();

using Sha256 = std::array<std::uint8_t, 32>;
Sha256 sha256(ByteView data);
Sha256 hmac_sha256(ByteView key, std::string_view data);

std::string md5_base64(ByteView data);
/// Lower case.
std::string hex(ByteView data);
std::string base64(ByteView data);

}  // namespace sqlstream::crypto
