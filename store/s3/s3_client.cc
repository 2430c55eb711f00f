#include "store/s3/s3_client.h"

#include <algorithm>
#include <mutex>
#include <random>
#include <tuple>
#include <utility>

#include <boost/asio/execution_context.hpp>
#include <boost/asio/query.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/log.h"
#include "store/s3/crypto.h"
#include "store/s3/xml.h"

namespace sqlstream {
namespace {

using Kind = StoreError::Kind;
using Clock = std::chrono::steady_clock;

// A larger body is hashed on another thread, so that small requests need not wait for it.
constexpr std::size_t kLargeBody = 256 * 1024;

http::ClientSettings http_settings(const StoreSettings& settings, const Environment& env) {
  http::ClientSettings result;
  result.ca_file = settings.ca_file;
  for (const char* name : {"AWS_CA_BUNDLE", "SSL_CERT_FILE"}) {
    if (result.ca_file.empty()) result.ca_file = env(name).value_or("");
  }
  result.skip_verify = settings.skip_verify;
  result.requests = settings.requests;
  result.proxies = http::Proxies::from(env);
  return result;
}

CredentialSettings credential_settings(const StoreSettings& settings) {
  return {{settings.access_key_id, settings.secret_access_key, settings.session_token},
          settings.profile,
          settings.region};
}

/// What stores must have in common to share a client.
auto shared_part(const StoreSettings& s) {
  return std::tie(s.bucket, s.endpoint, s.region, s.force_path_style, s.skip_verify, s.ca_file,
                  s.access_key_id, s.secret_access_key, s.session_token, s.profile, s.requests);
}

/// The clients in use, by executor and settings; one registry in each execution context.
class Registry : public asio::execution_context::service {
 public:
  using key_type = Registry;
  inline static asio::execution_context::id id;

  explicit Registry(asio::execution_context& context) : service(context) {}

  std::shared_ptr<S3Client> find(const StoreSettings& settings,
                                 const asio::any_io_executor& executor) {
    const std::lock_guard lock(mutex_);
    std::erase_if(entries_, [](const Entry& entry) { return entry.client.expired(); });
    for (const Entry& entry : entries_) {
      if (entry.executor != executor || shared_part(entry.settings) != shared_part(settings))
        continue;
      if (auto client = entry.client.lock()) return client;
    }
    auto client = std::make_shared<S3Client>(settings, executor, copy_environment(), RetryPolicy());
    entries_.push_back({executor, settings, client});
    return client;
  }

 private:
  struct Entry {
    asio::any_io_executor executor;
    StoreSettings settings;
    std::weak_ptr<S3Client> client;
  };

  void shutdown() override {
    const std::lock_guard lock(mutex_);
    entries_.clear();
  }

  std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace

S3Address address_of(const StoreSettings& settings, const std::string& region) {
  const bool aws = settings.endpoint.empty();
  const std::string endpoint =
      aws ? "https://s3." + region + ".amazonaws.com" + (region.starts_with("cn-") ? ".cn" : "")
          : settings.endpoint;
  const auto url = http::parse_url(endpoint);
  if (!url)
    throw Error("the endpoint \"" + endpoint + "\" of " + settings.url() +
                " is not an address; it should be like https://host or http://host:port");
  S3Address address{url->origin, {}};
  // A certificate's wildcard covers one label: a bucket with dots cannot be part of the host name.
  const bool dotted = settings.bucket.find('.') != std::string::npos && url->origin.tls;
  if (settings.force_path_style.value_or(!aws || dotted)) {
    address.path_prefix += '/';
    address.path_prefix += http::percent_encode(settings.bucket, false);
  } else {
    address.origin.host = settings.bucket + '.' + address.origin.host;
  }
  return address;
}

/// How far one call has come.
struct S3Client::Attempts {
  Attempts(RetryPolicy policy, std::uint64_t seed) : schedule(policy, seed) {}
  RetrySchedule schedule;
  Clock::time_point began = Clock::now();
  S3Context context;
  sigv4::Keys keys;  // of the attempt made last
  std::optional<http::Failure> failure;
  bool maybe_acted = false;
  bool skew_amended = false;
  bool region_amended = false;
  bool keys_amended = false;

  std::chrono::milliseconds elapsed() const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - began);
  }
};

S3Client::S3Client(const StoreSettings& settings, const asio::any_io_executor& executor,
                   Environment env, RetryPolicy policy)
    : settings_(settings),
      executor_(executor),
      policy_(policy),
      http_(std::make_shared<http::Client>(executor, http_settings(settings, env))),
      credentials_(credential_settings(settings), std::move(env), executor, http_),
      region_(settings.region) {
  if (settings.bucket.empty())
    throw Error("\"" + settings.url() + "\" names no bucket; an S3 replica is s3://bucket/path");
  address_of(settings_, region());
}

std::shared_ptr<S3Client> S3Client::shared(const StoreSettings& settings,
                                           const asio::any_io_executor& executor) {
  auto& context = asio::query(executor, asio::execution::context);
  return asio::use_service<Registry>(context).find(settings, executor);
}

asio::awaitable<std::string> S3Client::hash(ByteView body) {
  auto compute = [body] { return crypto::hex(crypto::sha256(body)); };
  if (body.size() < kLargeBody) co_return compute();
  co_return co_await Worker::of(executor_).run(std::move(compute));
}

asio::awaitable<std::optional<http::Response>> S3Client::attempt(const S3Call& call,
                                                                 const std::string& payload_hash,
                                                                 Attempts& state) {
  const Credentials credentials = co_await credentials_.get();
  state.keys = credentials.keys;
  const S3Address address = address_of(settings_, region());
  state.context = {call.action, settings_.bucket, address.origin.str()};

  http::Request request;
  request.method = call.method;
  request.origin = address.origin;
  request.path = address.path_prefix;
  if (!call.key.empty() || request.path.empty()) {
    request.path += '/';
    request.path += http::percent_encode(call.key, true);
  }
  request.query = call.query;
  request.headers = call.headers;
  request.body = call.body;
  request.answer_limit = call.answer_limit;
  request.answer_timeout = policy_.answer_timeout;
  const sigv4::Scope scope{region(), "s3"};
  sigv4::sign(request, credentials.keys, scope, now() + skew_, payload_hash, signing_key_);
  request.headers.emplace_back("User-Agent", "sqlstream/" SQLSTREAM_VERSION);

  state.failure.reset();
  try {
    http::Response response = co_await http_->send(std::move(request));
    co_return response;
  } catch (const http::Failure& failure) {
    state.failure = failure;
  }
  co_return std::nullopt;
}

/// Learns from a refusal; true when the request should be made again at once.
asio::awaitable<bool> S3Client::amend(const http::Response& response, const S3Failure& refused,
                                      Attempts& state) {
  const std::string& code = refused.code;
  const auto date = response.header("Date");
  if (code == "RequestTimeTooSkewed" && !state.skew_amended && date) {
    if (const auto theirs = http::parse_date(*date)) {
      state.skew_amended = true;
      skew_ = std::chrono::duration_cast<std::chrono::seconds>(*theirs - now());
      log::warn("this machine's clock differs from the object store's; requests follow the store's",
                {{"endpoint", state.context.endpoint}, {"seconds", std::to_string(skew_.count())}});
      co_return true;
    }
  }
  const std::string hint = region_hint(response);
  if (!hint.empty() && hint != region() && !state.region_amended) {
    state.region_amended = true;
    region_ = hint;
    co_return true;
  }
  // Not by the status: an expired token is a 400 of S3's.
  if (refused.kind() == Kind::denied && !state.keys_amended) {
    state.keys_amended = true;
    const sigv4::Keys keys = state.keys;
    co_return co_await credentials_.look_again(keys);
  }
  co_return false;
}

asio::awaitable<S3Answer> S3Client::call(S3Call call) {
  static std::atomic<std::uint64_t> counter{std::random_device{}()};
  Attempts state(policy_, ++counter);
  const std::string payload_hash = co_await hash(call.body);
  asio::steady_timer timer(executor_);
  while (true) {
    std::optional<http::Response> response = co_await attempt(call, payload_hash, state);
    std::optional<std::chrono::milliseconds> pause;
    std::optional<S3Failure> refused;
    if (response) {
      state.maybe_acted = state.maybe_acted || response->sent_twice;
      std::optional<xml::ErrorBody> late;
      if (call.error_in_200 && response->status == 200) late = xml::parse_error(response->body);
      if (response->status / 100 == 2 && !late)
        co_return S3Answer{std::move(*response), state.maybe_acted};
      if (late) response->status = 500;
      refused = refusal(state.context, *response);
      refused->maybe_acted = state.maybe_acted;
      const bool again = co_await amend(*response, *refused, state);
      if (again) continue;
      if (!is_transient(refused->status, refused->code)) throw S3Failure(*refused);
      state.maybe_acted = state.maybe_acted || refused->status >= 500;
      std::optional<std::chrono::milliseconds> asked;
      if (const auto header = response->header("Retry-After"))
        asked = http::parse_retry_after(*header, now());
      pause = state.schedule.next(state.elapsed(), asked);
      if (!pause) throw S3Failure(*refused);
    } else {
      const http::Failure& failure = *state.failure;
      const std::string text = "cannot " + call.action + ": " + failure.what();
      switch (failure.kind()) {
        case http::Failure::Kind::tls:
          throw StoreError(Kind::tls, text + "; sqlstream needs TLS 1.2 or newer there");
        case http::Failure::Kind::untrusted:
          throw StoreError(Kind::tls, text +
                                          "; name its CA's file (ca-file, AWS_CA_BUNDLE), or "
                                          "accept any certificate (skip-verify)");
        case http::Failure::Kind::name_unknown:
          throw StoreError(Kind::unreachable, text + "; correct the endpoint");
        case http::Failure::Kind::bad_answer:
          throw StoreError(Kind::rejected, text + "; is there an S3 service at that endpoint?");
        case http::Failure::Kind::unreachable:
        case http::Failure::Kind::no_socket:
          pause = state.schedule.next_connect(state.elapsed());
          break;
        case http::Failure::Kind::lost:
          state.maybe_acted = true;
          pause = state.schedule.next(state.elapsed(), {});
          break;
      }
      if (!pause && failure.kind() == http::Failure::Kind::no_socket)
        throw StoreError(Kind::unreachable, text + cure(EMFILE, ""));
      if (!pause)
        throw StoreError(Kind::unreachable,
                         text + "; check the endpoint, and that the service is up");
    }
    timer.expires_after(*pause);
    co_await timer.async_wait(asio::use_awaitable);
  }
}

}  // namespace sqlstream
