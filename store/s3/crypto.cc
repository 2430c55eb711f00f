#include "store/s3/crypto.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/ssl.h>

#include "base/error.h"

namespace sqlstream::crypto {

void initialise() {
  // The first call decides whether there is an exit handler. (OpenSSL calls are counted inside.)
  static const bool ready = OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, nullptr) == 1;
  if (!ready) throw Error("OpenSSL cannot be initialised in this process");
}

namespace {

// Looked up once: OpenSSL 3 would do so at each use of EVP_sha256(), for longer than it hashes.
// Never freed, as threads may use it to the process's end.
const EVP_MD* fetched_sha256() {
  initialise();
  static const EVP_MD* const found = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return found != nullptr ? found : EVP_sha256();
}

}  // namespace

Sha256 sha256(ByteView data) {
  const EVP_MD* algorithm = fetched_sha256();
  Sha256 digest{};
  if (EVP_Digest(data.data(), data.size(), digest.data(), nullptr, algorithm, nullptr) != 1)
    throw Error("OpenSSL refuses to compute SHA-256");
  return digest;
}

Sha256 hmac_sha256(ByteView key, std::string_view data) {
  initialise();
  Sha256 digest{};
  const ByteView bytes = as_bytes(data);
  if (!HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), bytes.data(), bytes.size(),
            digest.data(), nullptr))
    throw Error("OpenSSL refuses to compute HMAC-SHA-256");
  return digest;
}

std::string md5_base64(ByteView data) {
  initialise();
  std::array<std::uint8_t, 16> digest{};
  if (EVP_Digest(data.data(), data.size(), digest.data(), nullptr, EVP_md5(), nullptr) != 1)
    throw Error("OpenSSL refuses to compute MD5, which deleting several objects at once needs");
  return base64(digest);
}

std::string hex(ByteView data) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  text.reserve(data.size() * 2);
  for (const std::uint8_t byte : data) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

std::string base64(ByteView data) {
  std::string text((data.size() + 2) / 3 * 4 + 1, '\0');  // EVP writes a terminating zero
  const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()), data.data(),
                                   static_cast<int>(data.size()));
  text.resize(static_cast<std::size_t>(size));
  return text;
}

}  // namespace sqlstream::crypto
