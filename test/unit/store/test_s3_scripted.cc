#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <fstream>
#include <map>
#include <new>
#include <sys/resource.h>
#include <unistd.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <doctest/doctest.h>

#include "store/fault_store.h"
#include "store/s3/s3_store.h"
#include "store/s3/s3_upload.h"
#include "test/sanitized.h"
#include "test/unit/store/lacking.h"
#include "test/unit/store/run.h"
#include "test/unit/store/scripted_server.h"
#include "test/unit/store/server.h"

// What a real server does seldom: failures, lost answers, odd services, sources of credentials.

using namespace sqlstream;
using namespace std::chrono_literals;
using sqlstream::test::lacking;
using sqlstream::test::run;
using sqlstream::test::ScriptedServer;
using sqlstream::test::store_error;
using Asked = ScriptedServer::Asked;
using Reply = ScriptedServer::Reply;

namespace {

using Variables = std::map<std::string, std::string>;

Environment environment(Variables values) {
  return [values](const std::string& name) -> std::optional<std::string> {
    const auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  };
}

Reply refuse(int status, const std::string& code, http::Headers headers = {}) {
  return {status, "<Error><Code>" + code + "</Code></Error>", std::move(headers)};
}

constexpr const char* kEmptyList =
    "<ListBucketResult><IsTruncated>false</IsTruncated>"
    "</ListBucketResult>";

/// A store whose service is a script; retries wait only a little.
struct Scripted {
  explicit Scripted(ScriptedServer::Script script) : server(context, std::move(script)) {
    settings.type = StoreSettings::Type::s3;
    settings.bucket = "b";
    settings.endpoint = server.url();
    settings.access_key_id = "id";
    settings.secret_access_key = "secret";
  }

  S3Store& store() {
    if (!store_) {
      RetryPolicy policy;
      policy.base = 1ms;
      policy.cap = 5ms;
      policy.budget = budget;
      policy.answer_timeout = answer_timeout;
      client = std::make_shared<S3Client>(settings, context.get_executor(), environment(variables),
                                          policy);
      store_ = std::make_unique<S3Store>(settings, client);
    }
    return *store_;
  }
  void put(const std::string& text, bool if_absent = false) {
    const ByteView view = as_bytes(text);
    PutOptions options;
    options.if_absent = if_absent;
    run(context, store().put("k", Bytes(view.begin(), view.end()), options));
  }
  std::size_t requests() const { return server.asked().size(); }

  asio::io_context context;
  ScriptedServer server;
  StoreSettings settings;
  std::chrono::milliseconds budget = 30s;
  std::chrono::milliseconds answer_timeout = 30s;
  Variables variables;
  std::shared_ptr<S3Client> client;
  std::unique_ptr<S3Store> store_;
};

}  // namespace

TEST_CASE("what is transient is tried again") {
  int asked = 0;
  Scripted s([&](const Asked&) -> Reply {
    switch (++asked) {
      case 1:
        return refuse(503, "SlowDown");
      case 2:
        return refuse(500, "InternalError");
      case 3:
        return {429, ""};
      case 4:
        return {.lose = true};
      default:
        return {200, "body"};
    }
  });
  CHECK(as_text(run(s.context, s.store().get("k", {}))) == "body");
  CHECK(asked == 5);
}

TEST_CASE("retries end, and say why") {
  Scripted s([](const Asked&) { return refuse(503, "SlowDown"); });
  s.budget = 500ms;
  const StoreError error = store_error(s.context, s.store().get("k", {}));
  CHECK(error.kind() == StoreError::Kind::unavailable);
  CHECK(std::string(error.what()).find("SlowDown") != std::string::npos);
  CHECK(s.requests() > 1);
}

TEST_CASE("a service that asks for a pause gets it") {
  std::vector<std::chrono::steady_clock::time_point> asked;
  Scripted s([&](const Asked&) -> Reply {
    asked.push_back(std::chrono::steady_clock::now());
    if (asked.size() == 1) return refuse(503, "SlowDown", {{"Retry-After", "1"}});
    return {200, "body"};
  });
  run(s.context, s.store().get("k", {}));
  REQUIRE(asked.size() == 2);
  CHECK(asked[1] - asked[0] >= 1s);
}

TEST_CASE("refusals come at once") {
  Scripted s([](const Asked&) { return refuse(403, "AccessDenied"); });
  CHECK(store_error(s.context, s.store().get("k", {})).kind() == StoreError::Kind::denied);
  CHECK(s.requests() == 1);
}

TEST_CASE("connections are kept, and replaced silently when the server closed them") {
  Scripted s([](const Asked& asked) -> Reply {
    return {.body = kEmptyList,
            .close_after = asked.connection == 1 && asked.target.ends_with("2")};
  });
  for (const char* prefix : {"1", "2", "3"}) {
    ListQuery query;
    query.prefix = prefix;
    run(s.context, s.store().list(query));
  }
  REQUIRE(s.requests() == 3);
  CHECK(s.server.asked()[1].connection == 1);
  CHECK(s.server.asked()[2].connection == 2);
}

TEST_CASE("a kept connection that dies under the next request is no failure") {
  Scripted s([](const Asked& asked) -> Reply {
    if (asked.connection == 1 && asked.target.find("prefix=2") != std::string::npos)
      return {.lose = true};
    return {.body = kEmptyList};
  });
  s.settings.bucket = "b";
  for (const char* prefix : {"1", "2"}) {
    ListQuery query;
    query.prefix = prefix;
    run(s.context, s.store().list(query));
  }
  CHECK(s.requests() == 3);
}

TEST_CASE("a lost answer to a conditional put is found out") {
  std::string stored;
  bool other_writer = false;
  int puts = 0;
  Scripted s([&](const Asked& asked) -> Reply {
    if (asked.method == "GET") return {200, stored};
    CHECK(asked.header("If-None-Match") == "*");
    if (++puts % 2 == 1) {
      stored = other_writer ? "theirs" : asked.body;
      return {.lose = true};
    }
    return refuse(412, "PreconditionFailed");
  });
  s.put("mine", true);  // it was ours
  CHECK(stored == "mine");
  other_writer = true;
  const auto put = s.store().url();
  PutOptions options;
  options.if_absent = true;
  CHECK(store_error(s.context, s.store().put("k", Bytes{1}, options)).kind() ==
        StoreError::Kind::exists);
}

TEST_CASE("an answer that does not come in time is lost, before or after the service acted") {
  std::string stored;
  int puts = 0;
  Scripted s([&](const Asked& asked) -> Reply {
    if (asked.method == "GET") return {200, stored};
    ++puts;
    if (puts == 1) return {.silent = true};
    if (!stored.empty()) return refuse(412, "PreconditionFailed");
    stored = asked.body;
    return {.silent = true};
  });
  s.answer_timeout = 50ms;
  s.put("mine", true);
  CHECK(stored == "mine");
  CHECK(puts == 3);
  CHECK(s.server.asked()[2].connection ==
        3);  // a connection that may still answer is not used again
}

TEST_CASE("a service that answers late is waited for") {
  Scripted s([](const Asked&) -> Reply { return {.body = "x", .delay = 200ms}; });
  CHECK(as_text(run(s.context, s.store().get("k", {}))) == "x");
  CHECK(s.requests() == 1);
}

TEST_CASE("retries end while the service is silent, too") {
  Scripted s([](const Asked&) -> Reply { return {.silent = true}; });
  s.answer_timeout = 20ms;
  s.budget = 500ms;  // for two requests on a machine that is busy
  const StoreError error = store_error(s.context, s.store().get("k", {}));
  CHECK(error.kind() == StoreError::Kind::unreachable);
  CHECK(std::string(error.what()).find("timed out") != std::string::npos);
  CHECK(s.requests() > 1);
}

TEST_CASE("a service without If-None-Match or batch delete") {
  Scripted s([](const Asked& asked) -> Reply {
    if (!asked.header("If-None-Match").empty()) return refuse(501, "NotImplemented");
    if (asked.method == "POST") return refuse(501, "NotImplemented");
    return {asked.method == "DELETE" ? 204 : 200, ""};
  });
  s.put("x", true);
  CHECK(s.requests() == 2);
  s.put("y", true);
  CHECK(s.requests() == 3);  // remembered
  run(s.context, s.store().remove({"a", "b"}));
  CHECK(s.requests() == 6);
  CHECK(s.server.asked()[3].header("Content-MD5").size() == 24);
  CHECK(s.server.asked()[4].method == "DELETE");
}

TEST_CASE("what could not be deleted in a batch is deleted alone") {
  Scripted s([](const Asked& asked) -> Reply {
    if (asked.method == "POST")
      return {200,
              "<DeleteResult><Error><Key>b</Key><Code>InternalError</Code></Error>"
              "</DeleteResult>"};
    return {204, ""};
  });
  run(s.context, s.store().remove({"a", "b"}));
  REQUIRE(s.requests() == 2);
  CHECK(s.server.asked()[1].target == "/b/b");
}

TEST_CASE("nothing is deleted because an answer names it") {
  Scripted s([](const Asked& asked) -> Reply {
    if (asked.method == "POST")
      return {200,
              "<DeleteResult><Error><Key>elsewhere/x</Key><Code>InternalError</Code></Error>"
              "</DeleteResult>"};
    return {204, ""};
  });
  CHECK_THROWS_AS(run(s.context, s.store().remove({"a", "b"})), StoreError);
  CHECK(s.requests() == 1);
}

TEST_CASE("a list of unfinished uploads that comes again and again ends") {
  Scripted s([](const Asked&) -> Reply {
    return {200,
            "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>"
            "<NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker>"
            "</ListMultipartUploadsResult>"};
  });
  CHECK_THROWS_AS(run(s.context, s.store().abort_stale_uploads("", std::chrono::seconds(1))),
                  StoreError);
  CHECK(s.requests() == 2);
}

TEST_CASE("an answer that there is no memory for is an error of who asked, and no more than that" *
          doctest::skip(!test::kMayLack)) {
  constexpr std::size_t kSize = 3'000'000;
  Scripted s([](const Asked&) -> Reply { return {200, std::string(kSize, 'x')}; });
  bool ended = false;
  std::exception_ptr error;
  asio::co_spawn(s.context, s.store().get("k", {}), [&](const std::exception_ptr& e, const Bytes&) {
    ended = true;
    error = e;
  });
  lacking = kSize;
  // As the engine does: the handler that lacked it ends, the others go on.
  const auto limit = std::chrono::steady_clock::now() + 60s;
  while (!ended && std::chrono::steady_clock::now() < limit) {
    try {
      s.context.restart();
      s.context.run_for(10ms);
    } catch (const std::bad_alloc&) {
    }
  }
  lacking = 0;
  REQUIRE(ended);
  REQUIRE(error);
  CHECK_THROWS_AS(std::rethrow_exception(error), std::bad_alloc);
  CHECK(run(s.context, s.store().get("k", {})).size() == kSize);
}

TEST_CASE("a request that ends before it waits for anything, of who may be cancelled" *
          doctest::skip(!test::kMayLack)) {
  Scripted s([](const Asked&) -> Reply { return {200, "x"}; });
  constexpr std::size_t kLength = 30'000;  // a multiple of three
  s.variables["http_proxy"] =
      "http://u:" + std::string(kLength - 2, 'p') + '@' + s.server.url().substr(7);
  s.settings.endpoint = "http://store.invalid";  // no proxy is asked for this machine's own
  S3Store& store = s.store();
  asio::cancellation_signal cancel;
  std::exception_ptr error;
  asio::co_spawn(
      s.context, store.get("k", {}),
      asio::bind_cancellation_slot(cancel.slot(), [&](const std::exception_ptr& e, const Bytes&) {
        error = e;
        s.context.stop();
      }));
  lacking = kLength / 3 * 4 + 2;  // what is sent of it in base64
  s.context.run_for(60s);
  lacking = 0;
  REQUIRE(error);
  CHECK_THROWS_AS(std::rethrow_exception(error), std::bad_alloc);
  s.context.restart();
  s.context.poll();
}

TEST_CASE("the service's clock counts") {
  Scripted s([](const Asked& asked) -> Reply {
    if (!asked.header("x-amz-date").starts_with("2033"))
      return refuse(403, "RequestTimeTooSkewed", {{"Date", "Tue, 24 May 2033 00:00:00 GMT"}});
    return {200, "x"};
  });
  run(s.context, s.store().get("k", {}));
  run(s.context, s.store().get("k", {}));
  CHECK(s.requests() == 3);
}

TEST_CASE("the region is found out and kept") {
  const auto region_script = [](int status, http::Headers headers, const char* code) {
    return [=](const Asked& asked) -> Reply {
      if (asked.header("Authorization").find("/eu-west-3/s3/") != std::string::npos)
        return {200, "x"};
      return {status,
              std::string("<Error><Code>") + code + "</Code>" +
                  (headers.empty() ? "<Region>eu-west-3</Region>" : "") + "</Error>",
              headers};
    };
  };
  Scripted moved(region_script(301, {{"x-amz-bucket-region", "eu-west-3"}}, "PermanentRedirect"));
  run(moved.context, moved.store().get("k", {}));
  run(moved.context, moved.store().get("k", {}));
  CHECK(moved.requests() == 3);
  Scripted malformed(region_script(400, {}, "AuthorizationHeaderMalformed"));
  run(malformed.context, malformed.store().get("k", {}));
  CHECK(malformed.requests() == 2);
}

TEST_CASE("storage class and encryption are asked for") {
  Scripted s([](const Asked&) -> Reply { return {200, ""}; });
  s.settings.storage_class = "STANDARD_IA";
  s.settings.server_side_encryption = "aws:kms";
  s.settings.kms_key_id = "key";
  s.put("x");
  const Asked& asked = s.server.asked()[0];
  CHECK(asked.header("x-amz-storage-class") == "STANDARD_IA");
  CHECK(asked.header("x-amz-server-side-encryption") == "aws:kms");
  CHECK(asked.header("x-amz-server-side-encryption-aws-kms-key-id") == "key");
  const std::string authorization = asked.header("Authorization");
  CHECK(authorization.find("x-amz-storage-class") != std::string::npos);
}

TEST_CASE("an upload completed by an attempt whose answer was lost") {
  int completions = 0;
  Scripted s([&](const Asked& asked) -> Reply {
    if (asked.target.ends_with("?uploads="))
      return {200,
              "<InitiateMultipartUploadResult><UploadId>u</UploadId>"
              "</InitiateMultipartUploadResult>"};
    if (asked.method == "PUT") return {200, "", {{"ETag", "\"e\""}}};
    if (asked.method == "GET") return {206, "x"};
    switch (++completions) {
      case 1:  // success that turned into a failure after the status line
        return {200, "<Error><Code>InternalError</Code></Error>"};
      case 2:
        return {.lose = true};
      default:
        return refuse(404, "NoSuchUpload");
    }
  });
  auto upload = run(s.context, s.store().start_upload("k", 0, {}));
  run(s.context, upload->write(Bytes(6 << 20)));
  run(s.context, upload->finish());
  CHECK(completions == 3);
}

TEST_CASE("answers that are no S3's") {
  Scripted s([](const Asked&) -> Reply { return {200, "<html>welcome</html>"}; });
  StoreError error = store_error(s.context, s.store().list({}));
  CHECK(error.kind() == StoreError::Kind::rejected);
  CHECK(std::string(error.what()).find("endpoint") != std::string::npos);
}

TEST_CASE("an answer longer than asked for is not taken") {
  Scripted s([](const Asked&) -> Reply { return {206, std::string(3 << 20, 'x')}; });
  CHECK(store_error(s.context, s.store().get("k", ByteRange{0, 10})).kind() ==
        StoreError::Kind::rejected);
}

TEST_CASE("a proxy is asked for the whole URL") {
  Scripted s([](const Asked&) -> Reply { return {200, "x"}; });
  s.variables["http_proxy"] = "http://user:pass@" + s.server.url().substr(7);
  s.settings.endpoint = "http://s3.example.test:9000";
  run(s.context, s.store().get("k", {}));
  const Asked& asked = s.server.asked()[0];
  CHECK(asked.target == "http://s3.example.test:9000/b/k");
  CHECK(asked.header("Proxy-Authorization") == "Basic dXNlcjpwYXNz");
  Scripted tunnel([](const Asked&) -> Reply { return {407, ""}; });
  tunnel.variables["https_proxy"] = tunnel.server.url();
  tunnel.settings.endpoint = "https://s3.example.test";
  const StoreError error = store_error(tunnel.context, tunnel.store().get("k", {}));
  CHECK(error.kind() == StoreError::Kind::unreachable);
  CHECK(std::string(error.what()).find("407") != std::string::npos);
  CHECK(tunnel.server.asked()[0].method == "CONNECT");
  CHECK(tunnel.server.asked()[0].target == "s3.example.test:443");
}

TEST_CASE("where descriptors run out their limit is to be raised, not the endpoint corrected" *
          doctest::skip(sqlstream::testing::kSanitized)) {
  Scripted s([](const Asked&) -> Reply { return {.body = "x"}; });
  s.budget = 10ms;
  S3Store& store = s.store();
  struct Limit {
    rlimit before{};
    Limit() {
      ::getrlimit(RLIMIT_NOFILE, &before);
      const int free = ::dup(STDERR_FILENO);
      ::close(free);
      const rlimit none{static_cast<rlim_t>(free), before.rlim_max};
      ::setrlimit(RLIMIT_NOFILE, &none);
    }
    ~Limit() { ::setrlimit(RLIMIT_NOFILE, &before); }
  };
  const Limit limit;
  const StoreError error = store_error(s.context, store.get("k", {}));
  CHECK(error.kind() == StoreError::Kind::unreachable);
  CHECK(std::string(error.what()).ends_with("; raise the limit of open files (ulimit -n)"));
}

TEST_CASE("an answer is read that comes before the request's body was") {
  Scripted s([](const Asked&) -> Reply { return refuse(403, "AccessDenied"); });
  s.server.read_no_bodies();
  const StoreError error =
      store_error(s.context, s.store().put("k", Bytes(32 << 20), PutOptions()));
  CHECK(error.kind() == StoreError::Kind::denied);
  CHECK(s.requests() == 1);
}

TEST_CASE("what a proxy says behind its answer is not taken for what comes through TLS") {
  Scripted s([](const Asked&) -> Reply {
    return {.raw = "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"};
  });
  s.variables["https_proxy"] = s.server.url();
  s.settings.endpoint = "https://s3.example.test";
  s.budget = 10ms;
  const StoreError error = store_error(s.context, s.store().get("k", {}));
  CHECK(error.kind() == StoreError::Kind::unreachable);
  CHECK(std::string(error.what()).find("more than its answer") != std::string::npos);
}

TEST_CASE("answers that are none yet come before one") {
  Scripted s([](const Asked& asked) -> Reply {
    const std::string interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    const std::string body = std::to_string(asked.connection);
    return {.raw = interim + interim + "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body};
  });
  CHECK(as_text(run(s.context, s.store().get("a", {}))) == "1");
  CHECK(as_text(run(s.context, s.store().get("b", {}))) == "1");
  Scripted endless([](const Asked&) -> Reply {
    std::string text;
    for (int i = 0; i < 20; ++i) text += "HTTP/1.1 102 Processing\r\n\r\n";
    return {.raw = text};
  });
  CHECK(store_error(endless.context, endless.store().get("a", {})).kind() ==
        StoreError::Kind::rejected);
  CHECK(endless.requests() == 1);
}

TEST_CASE("what is left behind an answer is not taken for the next one") {
  Scripted s([](const Asked& asked) -> Reply {
    if (asked.method == "DELETE")
      return {.raw = "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"};
    return {200, std::to_string(asked.connection)};
  });
  run(s.context, s.store().remove({"k"}));
  CHECK(as_text(run(s.context, s.store().get("k", {}))) == "2");
}

TEST_CASE("neither a chunk's line nor a trailer without end is kept in memory") {
  const std::string chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const std::string& raw :
       {chunked + std::string(1 << 20, '0'), chunked + "0\r\nA: " + std::string(1 << 20, 'a')}) {
    Scripted s([&](const Asked&) -> Reply { return {.raw = raw}; });
    s.answer_timeout = 300s;  // it does not end because it waits for more
    CHECK(store_error(s.context, s.store().get("k", {})).kind() == StoreError::Kind::rejected);
    CHECK(s.requests() == 1);
  }
}

TEST_CASE("a list that goes on, and does not say how, is no whole one") {
  Scripted s([](const Asked&) -> Reply {
    return {200,
            "<ListBucketResult><IsTruncated>true</IsTruncated><NextMarker>k</NextMarker><Contents>"
            "<Key>k</Key><Size>1</Size></Contents></ListBucketResult>"};
  });
  CHECK(store_error(s.context, s.store().list({})).kind() == StoreError::Kind::rejected);
}

TEST_CASE("a list in no order is an error, one that says a key twice is not") {
  const auto page = [](const std::string& keys, const std::string& next) {
    std::string text = "<ListBucketResult>";
    for (const char key : keys) {
      text += std::string("<Contents><Key>") + key + "</Key><Size>1</Size></Contents>";
    }
    if (!next.empty()) {
      text += "<IsTruncated>true</IsTruncated><NextContinuationToken>" + next +
              "</NextContinuationToken>";
    }
    return text + "</ListBucketResult>";
  };
  std::string first;
  std::string second;
  Scripted s([&](const Asked& asked) -> Reply {
    const bool goes_on = asked.target.find("continuation-token") != std::string::npos;
    return {200, goes_on ? page(second, "") : page(first, second.empty() ? "" : "t")};
  });
  const auto refused = [&](const std::string& one, const std::string& two) {
    first = one;
    second = two;
    const auto error = store_error(s.context, s.store().list({}));
    CHECK(error.kind() == StoreError::Kind::rejected);
    CHECK(std::string(error.what()).find("in their order") != std::string::npos);
  };
  refused("ba", "");
  refused("bc", "ad");
  first = "ab";
  second = "bc";
  const auto listing = run(s.context, s.store().list({}));
  REQUIRE(listing.objects.size() == 3);
  CHECK(listing.objects.back().key == "c");
}

// Credentials: each source is a script that also plays S3 and tells who asked.
namespace {

struct Sources : Scripted {
  explicit Sources(ScriptedServer::Script script) : Scripted(std::move(script)) {
    settings.access_key_id.clear();
    settings.secret_access_key.clear();
    variables["HOME"] = folder.path.string();
    variables["AWS_EC2_METADATA_DISABLED"] = "true";
  }
  /// The access key id that a request was signed with.
  std::string key_used() {
    run(context, store().get("k", {}));
    const std::string header = server.asked().back().header("Authorization");
    const std::size_t begin = header.find("Credential=") + 11;
    return header.substr(begin, header.find('/') - begin);
  }
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((folder.path / name).parent_path());
    std::ofstream(folder.path / name) << text;
  }
  test::TempFolder folder;
};

Reply answer_x(const Asked&) {
  return {200, "x"};
}

std::string metadata_document(const std::string& key, const std::string& expires) {
  return R"({"AccessKeyId":")" + key + R"(","SecretAccessKey":"s","Token":"t","Expiration":")" +
         expires + R"("})";
}

std::string role_document(const std::string& action, const std::string& key) {
  return "<" + action + "Response><" + action + "Result><Credentials><AccessKeyId>" + key +
         "</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
         "<Expiration>2199-01-01T00:00:00Z</Expiration></Credentials></" +
         action + "Result></" + action + "Response>";
}

}  // namespace

TEST_CASE("credentials from variables and files, in order") {
  const auto key = [](const Variables& more, const std::string& profile) {
    Sources s(answer_x);
    s.write(".aws/credentials",
            "[default]\naws_access_key_id=file\naws_secret_access_key=s\n"
            "[work]\naws_access_key_id=work\naws_secret_access_key=s\n");
    for (const auto& [name, value] : more) s.variables[name] = value;
    s.settings.profile = profile;
    return s.key_used();
  };
  Variables variables;
  CHECK(key(variables, "") == "file");
  variables["AWS_PROFILE"] = "work";
  CHECK(key(variables, "") == "work");
  variables["AWS_ACCESS_KEY_ID"] = "aws";
  variables["AWS_SECRET_ACCESS_KEY"] = "s";
  CHECK(key(variables, "") == "aws");
  variables["LITESTREAM_ACCESS_KEY_ID"] = "litestream";
  variables["LITESTREAM_SECRET_ACCESS_KEY"] = "s";
  CHECK(key(variables, "") == "litestream");
  CHECK(key(variables, "work") == "work");
}

TEST_CASE("no credentials, and what was looked at") {
  Sources s(answer_x);
  StoreError error = store_error(s.context, s.store().get("k", {}));
  CHECK(error.kind() == StoreError::Kind::denied);
  for (const char* place : {"AWS_ACCESS_KEY_ID", "LITESTREAM_ACCESS_KEY_ID", "~/.aws", "metadata"})
    CHECK(std::string(error.what()).find(place) != std::string::npos);
  CHECK(s.requests() == 0);
  Sources named(answer_x);
  named.settings.profile = "nobody";
  error = store_error(named.context, named.store().get("k", {}));
  CHECK(std::string(error.what()).find("\"nobody\"") != std::string::npos);
}

TEST_CASE("keys rotated in the file are read again after a refusal") {
  Sources s([](const Asked& asked) -> Reply {
    if (asked.header("Authorization").find("=old/") != std::string::npos)
      return refuse(403, "InvalidAccessKeyId");
    return {200, "x"};
  });
  s.write(".aws/credentials", "[default]\naws_access_key_id=old\naws_secret_access_key=s\n");
  CHECK(store_error(s.context, s.store().get("k", {})).kind() == StoreError::Kind::denied);
  CHECK(s.requests() == 1);
  s.write(".aws/credentials", "[default]\naws_access_key_id=new\naws_secret_access_key=s\n");
  CHECK(s.key_used() == "new");
}

TEST_CASE("an expired session token is replaced by what the file has now") {
  Sources s([](const Asked& asked) -> Reply {
    const std::string token = asked.header("x-amz-security-token");
    if (token != "third") return refuse(token == "first" ? 400 : 403, "ExpiredToken");
    return {200, "x"};
  });
  const auto write = [&](const std::string& token) {
    s.write(".aws/credentials",
            "[default]\naws_access_key_id=id\naws_secret_access_key=s\naws_session_token=" + token);
  };
  write("first");
  const StoreError error = store_error(s.context, s.store().get("k", {}));
  CHECK(error.kind() == StoreError::Kind::denied);
  CHECK(std::string(error.what()).find("session token has expired") != std::string::npos);
  CHECK(s.requests() == 1);
  write("second");
  CHECK(store_error(s.context, s.store().get("k", {})).kind() == StoreError::Kind::denied);
  CHECK(s.requests() == 3);
  write("third");
  CHECK(s.key_used() == "id");
}

TEST_CASE("web identity") {
  Sources s([](const Asked& asked) -> Reply {
    if (asked.method != "POST") return {200, "x"};
    CHECK(asked.body.find("Action=AssumeRoleWithWebIdentity") != std::string::npos);
    CHECK(asked.body.find("WebIdentityToken=the-token") != std::string::npos);
    CHECK(asked.body.find("RoleArn=arn%3Arole") != std::string::npos);
    CHECK(asked.header("Authorization").empty());
    return {200, role_document("AssumeRoleWithWebIdentity", "web")};
  });
  s.write("token", "the-token\n");
  s.variables["AWS_WEB_IDENTITY_TOKEN_FILE"] = (s.folder.path / "token").string();
  s.variables["AWS_ROLE_ARN"] = "arn:role";
  s.variables["AWS_ENDPOINT_URL_STS"] = s.server.url();
  CHECK(s.key_used() == "web");
  CHECK(s.server.asked().back().header("x-amz-security-token") == "t");
  CHECK(s.key_used() == "web");
  CHECK(s.requests() == 3);  // asked once
}

TEST_CASE("a role of a profile") {
  Sources s([](const Asked& asked) -> Reply {
    if (asked.method != "POST") return {200, "x"};
    CHECK(asked.body.find("Action=AssumeRole&") != std::string::npos);
    CHECK(asked.header("Authorization").find("=base/") != std::string::npos);
    return {200, role_document("AssumeRole", "role")};
  });
  s.write(".aws/credentials", "[base]\naws_access_key_id=base\naws_secret_access_key=s\n");
  s.write(".aws/config", "[profile work]\nrole_arn=arn\nsource_profile=base\n");
  s.variables["AWS_PROFILE"] = "work";
  s.variables["AWS_ENDPOINT_URL_STS"] = s.server.url();
  CHECK(s.key_used() == "role");
}

TEST_CASE("profiles in a circle, or with keys from elsewhere") {
  Sources s(answer_x);
  s.write(".aws/config",
          "[profile a]\nrole_arn=x\nsource_profile=b\n[profile b]\nrole_arn=y\nsource_profile=a\n"
          "[default]\ncredential_process=/bin/true\n");
  std::string text = store_error(s.context, s.store().get("k", {})).what();
  CHECK(text.find("not supported") != std::string::npos);
  Sources circle(answer_x);
  circle.variables["AWS_CONFIG_FILE"] = (s.folder.path / ".aws/config").string();
  circle.settings.profile = "a";
  text = store_error(circle.context, circle.store().get("k", {})).what();
  CHECK(text.find("circle") != std::string::npos);
}

TEST_CASE("a container's credentials, renewed before they expire") {
  int given = 0;
  Sources s([&](const Asked& asked) -> Reply {
    if (asked.target != "/creds?x=1") return {200, "x"};
    CHECK(asked.header("Authorization") == "the-token");
    ++given;
    // The first ones are about to expire: good, but to be renewed with the next request.
    return {200,
            metadata_document("container" + std::to_string(given),
                              given == 1 ? format_rfc3339(now() + 1min) : "2199-01-01T00:00:00Z")};
  });
  s.write("token", "the-token\n");
  s.variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = s.server.url() + "/creds?x=1";
  s.variables["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = (s.folder.path / "token").string();
  CHECK(s.key_used() == "container1");
  CHECK(s.key_used() == "container2");
  CHECK(s.key_used() == "container2");
  CHECK(given == 2);
}

TEST_CASE("keys that still work are used while there are no others, without asking each time") {
  for (const bool fails : {false, true}) {
    int asked_for = 0;
    Sources s([&](const Asked& asked) -> Reply {
      if (asked.target != "/creds") return {200, "x"};
      if (++asked_for > 1 && fails) return {404, ""};
      return {200, metadata_document("container", format_rfc3339(now() + 4min))};
    });
    s.variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = s.server.url() + "/creds";
    for (int i = 0; i < 5; ++i) CHECK(s.key_used() == "container");
    CHECK(asked_for == 2);
  }
}

TEST_CASE("a metadata service's address that is none is not repeated, with what stands in it") {
  for (const char* variable :
       {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT"}) {
    Sources s([](const Asked&) -> Reply { return {200, "x"}; });
    s.variables["AWS_EC2_METADATA_DISABLED"] = "false";
    s.variables[variable] = "ftp//user:hush@host";
    const std::string text = store_error(s.context, s.store().get("k", {})).what();
    CHECK(text.find(variable) != std::string::npos);
    CHECK(text.find("hush") == std::string::npos);
  }
}

TEST_CASE("an instance's credentials") {
  Sources s([](const Asked& asked) -> Reply {
    const std::string base = "/latest/meta-data/iam/security-credentials/";
    if (asked.method == "PUT" && asked.target == "/latest/api/token") {
      CHECK_FALSE(asked.header("X-aws-ec2-metadata-token-ttl-seconds").empty());
      return {200, "session"};
    }
    if (asked.target.starts_with("/latest/"))
      CHECK(asked.header("X-aws-ec2-metadata-token") == "session");
    if (asked.target == base) return {200, "my-role\n"};
    if (asked.target == base + "my-role")
      return {200, metadata_document("instance", "2199-01-01T00:00:00Z")};
    return {200, "x"};
  });
  s.variables["AWS_EC2_METADATA_DISABLED"] = "false";
  s.variables["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = s.server.url();
  CHECK(s.key_used() == "instance");
}

TEST_CASE("injected faults") {
  test::TempFolder folder;
  asio::io_context context;
  const StoreSettings settings{.path = (folder.path / "r").string()};
  FaultStore store(make_store(settings, context.get_executor()), context.get_executor());
  using Operation = FaultStore::Operation;
  store.add({.operation = Operation::put, .key_part = "b"});
  store.add({.operation = Operation::put,
             .when = FaultStore::When::after,
             .kind = StoreError::Kind::unreachable,
             .skip = 1});
  store.set_latency(1ms);
  CHECK(store_error(context, store.put("b", {}, {})).kind() == StoreError::Kind::unavailable);
  run(context, store.put("a", {}, {}));
  CHECK(store_error(context, store.put("c", {}, {})).kind() == StoreError::Kind::unreachable);
  run(context, store.put("d", {}, {}));
  CHECK(store.count(Operation::put) == 4);
  std::string keys;
  for (const auto& object : run(context, store.list({})).objects) keys += object.key;
  CHECK(keys == "acd");
}
