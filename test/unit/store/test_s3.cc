#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdio>
#include <random>
#include <set>

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <doctest/doctest.h>

#include "store/s3/s3_client.h"
#include "store/s3/s3_store.h"
#include "test/unit/store/run.h"
#include "test/unit/store/server.h"

// The S3 store against a real server, MinIO, in the clear and over TLS.

using namespace sqlstream;
using sqlstream::test::Minio;
using sqlstream::test::run;
using sqlstream::test::store_error;

namespace {

/// One server for all cases of a kind: each case has a bucket of its own.
Minio& server(bool tls) {
  static std::unique_ptr<Minio> servers[2];
  auto& chosen = servers[tls ? 1 : 0];
  if (!chosen) chosen = std::make_unique<Minio>(tls);
  return *chosen;
}

StoreSettings settings_for(Minio& minio) {
  static int buckets = 0;
  StoreSettings settings;
  settings.type = StoreSettings::Type::s3;
  settings.bucket = "bucket-" + std::to_string(++buckets);
  settings.path = "some path/db";
  settings.endpoint = minio.endpoint();
  settings.access_key_id = Minio::kUser;
  settings.secret_access_key = Minio::kPassword;
  minio.make_bucket(settings.bucket);
  return settings;
}

bool contains(const std::exception& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

Bytes random_bytes(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  Bytes bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random());
  return bytes;
}

struct Fixture {
  asio::io_context context;
  Minio& minio = server(false);
  StoreSettings settings = settings_for(minio);
  std::unique_ptr<Store> store = make_store(settings, context.get_executor());

  template <class T>
  auto wait(asio::awaitable<T> coroutine) {
    return run(context, std::move(coroutine));
  }
};

void exercise(const StoreSettings& settings) {
  asio::io_context context;
  const auto store = make_store(settings, context.get_executor());
  const Bytes body = random_bytes(300'000, 1);
  const std::string key = "generations/0123/wal/00000000_00000000.wal.lz4";
  run(context, store->put(key, body, {}));
  CHECK(run(context, store->get(key, {})) == body);
  CHECK(run(context, store->get(key, ByteRange{10, 5})) ==
        Bytes(body.begin() + 10, body.begin() + 15));
  CHECK(run(context, store->get(key, ByteRange{299'990, 100})) ==
        Bytes(body.end() - 10, body.end()));
  CHECK(run(context, store->get(key, ByteRange{300'000, 10})).empty());
  CHECK(run(context, store->get(key, ByteRange{5, 0})).empty());
  const Listing listing = run(context, store->list({.prefix = "generations/"}));
  REQUIRE(listing.objects.size() == 1);
  CHECK(listing.objects[0].key == key);
  CHECK(listing.objects[0].size == body.size());
  CHECK(std::chrono::abs(listing.objects[0].modified - now()) < std::chrono::hours(1));
  CHECK(store_error(context, store->put(key, {}, {.if_absent = true})).kind() ==
        StoreError::Kind::exists);
  run(context, store->put(key + "2", {}, {.if_absent = true}));
  CHECK(run(context, store->get(key + "2", {})).empty());
  run(context, store->remove({key, key + "2", "not there"}));
  CHECK(run(context, store->list({})).objects.empty());
  CHECK(store_error(context, store->get(key, {})).kind() == StoreError::Kind::not_found);
  run(context, store->remove({key}));
}

}  // namespace

TEST_CASE("path style") {
  exercise(settings_for(server(false)));
}

TEST_CASE("virtual-host style") {
  StoreSettings settings = settings_for(server(false));
  settings.endpoint = "http://s3.localhost:" + std::to_string(server(false).port());
  settings.force_path_style = false;
  exercise(settings);
}

TEST_CASE("TLS with the server's CA, both styles") {
  StoreSettings settings = settings_for(server(true));
  settings.ca_file = server(true).ca_file();
  exercise(settings);
  settings = settings_for(server(true));
  settings.ca_file = server(true).ca_file();
  settings.endpoint = "https://s3.localhost:" + std::to_string(server(true).port());
  settings.force_path_style = false;
  exercise(settings);
}

TEST_CASE("TLS that cannot be verified") {
  StoreSettings settings = settings_for(server(true));
  asio::io_context context;
  StoreError error = store_error(context, make_store(settings, context.get_executor())->list({}));
  CHECK(error.kind() == StoreError::Kind::tls);
  CHECK(contains(error, settings.endpoint));
  CHECK(contains(error, "self"));
  settings.skip_verify = true;
  exercise(settings);

  settings.skip_verify = false;
  settings.ca_file = server(true).ca_file();
  settings.endpoint = "https://other.localhost:" + std::to_string(server(true).port());
  error = store_error(context, make_store(settings, context.get_executor())->list({}));
  CHECK(error.kind() == StoreError::Kind::tls);
  CHECK(contains(error, "hostname mismatch"));
  settings.ca_file = "/no/such/file";
  error = store_error(context, make_store(settings, context.get_executor())->list({}));
  CHECK(contains(error, "/no/such/file"));
}

TEST_CASE("plain HTTP where TLS is expected, and the reverse") {
  asio::io_context context;
  StoreSettings settings = settings_for(server(false));
  settings.endpoint = "https://127.0.0.1:" + std::to_string(server(false).port());
  StoreError error = store_error(context, make_store(settings, context.get_executor())->list({}));
  CHECK(error.kind() == StoreError::Kind::tls);
  CHECK(contains(error, "TLS 1.2"));
  CHECK_FALSE(contains(error, "skip-verify"));
  settings = settings_for(server(true));
  settings.endpoint = "http://127.0.0.1:" + std::to_string(server(true).port());
  error = store_error(context, make_store(settings, context.get_executor())->list({}));
  CHECK(error.kind() == StoreError::Kind::rejected);
  CHECK(contains(error, "endpoint"));
}

TEST_CASE_FIXTURE(Fixture, "wrong credentials, bucket, port, host") {
  StoreSettings wrong = settings;
  wrong.secret_access_key = "not-the-secret";
  StoreError error =
      store_error(context, make_store(wrong, context.get_executor())->put("k", Bytes{1}, {}));
  CHECK(error.kind() == StoreError::Kind::denied);
  CHECK(contains(error, "secret access key is wrong"));
  CHECK(contains(error, settings.bucket));
  CHECK(contains(error, settings.endpoint));
  CHECK_FALSE(contains(error, wrong.secret_access_key));

  wrong = settings;
  wrong.access_key_id = "nobody";
  error = store_error(context, make_store(wrong, context.get_executor())->get("k", {}));
  CHECK(error.kind() == StoreError::Kind::denied);
  CHECK(contains(error, "access key id is not known"));

  wrong = settings;
  wrong.bucket = "no-such-bucket";
  for (int i = 0; i < 3; ++i) {
    const auto broken = make_store(wrong, context.get_executor());
    if (i == 0) error = store_error(context, broken->put("k", Bytes{1}, {}));
    if (i == 1) error = store_error(context, broken->get("k", {}));
    if (i == 2) error = store_error(context, broken->list({}));
    CHECK(error.kind() == StoreError::Kind::no_bucket);
    CHECK(contains(error, "s3://no-such-bucket"));
    CHECK(contains(error, settings.endpoint));
  }

  wrong = settings;
  wrong.endpoint = "http://127.0.0.1:" + std::to_string(test::free_port());
  error = store_error(context, make_store(wrong, context.get_executor())->list({}));
  CHECK(error.kind() == StoreError::Kind::unreachable);
  CHECK(contains(error, wrong.endpoint));

  wrong.endpoint = "http://no-such-host.invalid:9000";
  error = store_error(context, make_store(wrong, context.get_executor())->list({}));
  CHECK(error.kind() == StoreError::Kind::unreachable);
  CHECK(contains(error, "no-such-host.invalid"));
}

TEST_CASE_FIXTURE(Fixture, "a wrong region is corrected") {
  StoreSettings elsewhere = settings;
  elsewhere.region = "eu-central-1";
  exercise(elsewhere);
}

TEST_CASE_FIXTURE(Fixture, "more than a thousand keys") {
  constexpr int kKeys = 2'345;
  auto put_some = [this](int first, int step) -> asio::awaitable<void> {
    for (int i = first; i < kKeys; i += step) {
      char key[32];
      std::snprintf(key, sizeof key, "wal/%08x_+ %%&", i);
      Bytes body{static_cast<std::uint8_t>(i)};
      PutOptions options;
      co_await store->put(key, std::move(body), options);
    }
  };
  int running = 0;
  for (int i = 0; i < 8; ++i, ++running)
    asio::co_spawn(context, put_some(i, 8), [&](std::exception_ptr error) {
      CHECK_FALSE(error);
      if (--running == 0) context.stop();
    });
  context.restart();
  context.run();
  wait(store->put("x/1", {}, {}));

  Listing listing = wait(store->list({.prefix = "wal/"}));
  REQUIRE(listing.objects.size() == kKeys);
  CHECK(listing.objects[0].key == "wal/00000000_+ %&");
  CHECK(std::is_sorted(listing.objects.begin(), listing.objects.end(),
                       [](const auto& a, const auto& b) { return a.key < b.key; }));
  listing = wait(store->list({.prefix = "wal/", .start_after = "wal/00000800", .limit = 1'100}));
  REQUIRE(listing.objects.size() == std::min(1'100, kKeys - 0x800));
  CHECK(listing.objects[0].key == "wal/00000800_+ %&");
  listing = wait(store->list({.folders = true}));
  CHECK(listing.folders == std::vector<std::string>{"wal/", "x/"});
  CHECK(listing.objects.empty());

  std::vector<std::string> keys;
  for (const auto& object : wait(store->list({})).objects) keys.push_back(object.key);
  CHECK(keys.size() == kKeys + 1);
  wait(store->remove(keys));
  CHECK(wait(store->list({})).objects.empty());
}

TEST_CASE_FIXTURE(Fixture, "uploads of one part and of many") {
  for (const std::size_t size : {std::size_t{0}, std::size_t{1000}, std::size_t{5} << 20,
                                 (std::size_t{5} << 20) + 1, (std::size_t{17} << 20) + 123}) {
    CAPTURE(size);
    const Bytes body = random_bytes(size, static_cast<unsigned>(size));
    auto upload = wait(store->start_upload("snapshot", size, {}));
    for (std::size_t done = 0; done < size;) {
      const std::size_t n = std::min<std::size_t>(700'001, size - done);
      wait(upload->write(Bytes(body.begin() + static_cast<std::ptrdiff_t>(done),
                               body.begin() + static_cast<std::ptrdiff_t>(done + n))));
      done += n;
    }
    wait(upload->finish());
    CHECK(wait(store->get("snapshot", {})) == body);
  }
  auto second = wait(store->start_upload("snapshot", 0, {.if_absent = true}));
  wait(second->write(random_bytes(6 << 20, 2)));
  CHECK(store_error(context, second->finish()).kind() == StoreError::Kind::exists);
}

TEST_CASE_FIXTURE(Fixture, "an upload given up leaves nothing, at once or as stale") {
  const auto uploads = [&] {
    S3Call call;
    call.action = "list uploads";
    call.query = {{"uploads", ""}, {"prefix", settings.path + "/snapshot"}};
    const S3Answer answer =
        wait(S3Client::shared(settings, context.get_executor())->call(std::move(call)));
    const std::string text(as_text(answer.response.body));
    return text.find("<UploadId>") != std::string::npos;
  };
  {
    auto upload = wait(store->start_upload("snapshot", 0, {}));
    wait(upload->write(random_bytes(11 << 20, 3)));
    CHECK(uploads());
  }
  context.restart();
  context.run();  // the detached abort
  CHECK_FALSE(uploads());

  auto upload = wait(store->start_upload("snapshot", 0, {}));
  wait(upload->write(random_bytes(6 << 20, 3)));
  CHECK(uploads());
  wait(store->abort_stale_uploads("snapshot", std::chrono::hours(1)));
  CHECK(uploads());
  wait(store->abort_stale_uploads("snapshot", std::chrono::seconds(-3600)));
  CHECK_FALSE(uploads());
}

TEST_CASE_FIXTURE(Fixture, "cancelling ends at once, and the store goes on working") {
  StoreSettings silent = settings;
  boost::asio::ip::tcp::acceptor listener(
      context, {boost::asio::ip::address_v4::loopback(), 0});  // accepts and never answers
  silent.endpoint = "http://127.0.0.1:" + std::to_string(listener.local_endpoint().port());
  const auto store2 = make_store(silent, context.get_executor());
  auto race = [&]() -> asio::awaitable<bool> {
    using namespace boost::asio::experimental::awaitable_operators;
    asio::steady_timer timer(context, std::chrono::milliseconds(200));
    auto result = co_await (store2->get("k", {}) || timer.async_wait(asio::use_awaitable));
    co_return result.index() == 1;
  };
  CHECK(wait(race()));
  wait(store->put("k", Bytes{1}, {}));
}

TEST_CASE_FIXTURE(Fixture, "nothing is left to run when nothing is asked") {
  wait(store->put("k", Bytes{1}, {}));
  context.restart();
  context.poll();
  CHECK(context.stopped());  // no timers, no pending reads
}

int main(int argc, char** argv) {
  if (test::find_minio().empty()) {
    std::puts("skipped: no minio binary (SQLSTREAM_TEST_BIN)");
    return 77;
  }
  doctest::Context context(argc, argv);
  return context.run();
}
