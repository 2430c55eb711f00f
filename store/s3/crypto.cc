#include "store/s3/crypto.h"

#include <atomic>
#include <memory>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/ssl.h>

#include "store/store.h"

namespace sqlstream::crypto {

namespace {

// Not the fault of what is hashed: it may be possible a little later.
[[noreturn]] void throw_cannot(const std::string& what) {
  throw StoreError(StoreError::Kind::unavailable, "OpenSSL " + what);
}

}  // namespace

void initialise() {
  // The first call decides whether there is an exit handler. (OpenSSL calls are counted inside.)
  // What is begun without memory stays so for OpenSSL, and much of it would take a null pointer for
  // its default context.
  static const bool ready = OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, nullptr) == 1 &&
                            OSSL_LIB_CTX_get0_global_default() != nullptr;
  if (!ready)
    throw_cannot(
        "could not be initialised in this process, as when there is no memory: nothing can be sent "
        "to an S3 service before the program is started anew");
}

namespace {

// Looked up once: OpenSSL 3 would do so at each use of EVP_sha256(), for longer than it hashes.
// Never freed, as threads may use it to the process's end.
const EVP_MD* fetched_sha256() {
  initialise();
  static const EVP_MD* const found = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return found != nullptr ? found : EVP_sha256();
}

struct FreeMac {
  void operator()(EVP_MAC_CTX* context) const { EVP_MAC_CTX_free(context); }
};
using Mac = std::unique_ptr<EVP_MAC_CTX, FreeMac>;

Mac new_hmac_sha256() {
  EVP_MAC* const algorithm = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
  if (algorithm == nullptr) return nullptr;
  Mac mac(EVP_MAC_CTX_new(algorithm));
  EVP_MAC_free(algorithm);
  std::array digest{'S', 'H', 'A', '2', '5', '6', '\0'};
  const std::array settings{
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest.data(), 0),
      OSSL_PARAM_construct_end()};
  if (mac && EVP_MAC_CTX_set_params(mac.get(), settings.data()) != 1) return nullptr;
  return mac;
}

// Without a key, to be copied: made once, for the same reasons. Null when it cannot be made now.
const EVP_MAC_CTX* prepared_hmac_sha256() {
  initialise();
  static std::atomic<EVP_MAC_CTX*> prepared{nullptr};
  EVP_MAC_CTX* known = prepared.load();
  if (known != nullptr) return known;
  Mac mac = new_hmac_sha256();
  if (!mac || !prepared.compare_exchange_strong(known, mac.get())) return known;
  return mac.release();
}

}  // namespace

Sha256 sha256(ByteView data) {
  const EVP_MD* algorithm = fetched_sha256();
  Sha256 digest{};
  if (EVP_Digest(data.data(), data.size(), digest.data(), nullptr, algorithm, nullptr) != 1)
    throw_cannot("cannot compute SHA-256 now, as when there is no memory");
  return digest;
}

Sha256 hmac_sha256(ByteView key, std::string_view data) {
  const EVP_MAC_CTX* const prepared = prepared_hmac_sha256();
  const Mac mac(prepared != nullptr ? EVP_MAC_CTX_dup(prepared) : nullptr);
  const ByteView bytes = as_bytes(data);
  Sha256 digest{};
  std::size_t size = 0;
  if (!mac || EVP_MAC_init(mac.get(), key.data(), key.size(), nullptr) != 1 ||
      EVP_MAC_update(mac.get(), bytes.data(), bytes.size()) != 1 ||
      EVP_MAC_final(mac.get(), digest.data(), &size, digest.size()) != 1) {
    throw_cannot("cannot compute HMAC-SHA-256 now, as when there is no memory");
  }
  return digest;
}

std::string md5_base64(ByteView data) {
  initialise();
  std::array<std::uint8_t, 16> digest{};
  if (EVP_Digest(data.data(), data.size(), digest.data(), nullptr, EVP_md5(), nullptr) != 1)
    throw_cannot("refuses to compute MD5, which deleting several objects at once needs");
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
