#include "store/s3/s3_upload.h"

#include <algorithm>
#include <exception>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include "base/reserve_apart.h"
#include "store/s3/s3_store.h"
#include "store/s3/semaphore.h"
#include "store/s3/xml.h"

namespace sqlstream {
namespace {

using Kind = StoreError::Kind;

constexpr std::size_t kSmallestPart = 5 * 1024 * 1024;
constexpr std::uint64_t kParts =
    9'000;  // of the 10,000 allowed: the hint may be short of the truth
constexpr int kPartsOnTheirWay = 2;

}  // namespace

std::size_t part_size_for(std::uint64_t size_hint) {
  return static_cast<std::size_t>(
      std::max<std::uint64_t>(kSmallestPart, (size_hint + kParts - 1) / kParts));
}

struct S3Upload::State {
  State(std::shared_ptr<S3Client> c, std::string k)
      : client(std::move(c)), key(std::move(k)), places(client->executor(), kPartsOnTheirWay) {}

  std::string address() const { return "s3://" + client->bucket() + "/" + key; }

  /// Waits until no part is on its way.
  static asio::awaitable<void> settle(std::shared_ptr<State> state) {
    std::vector<Semaphore::Permit> all;
    all.reserve(kPartsOnTheirWay);
    for (int i = 0; i < kPartsOnTheirWay; ++i) all.push_back(co_await state->places.acquire());
  }

  static asio::awaitable<void> send(std::shared_ptr<State> state, int number, Bytes body,
                                    Semaphore::Permit place) {
    const Semaphore::Permit held = std::move(place);
    if (state->failure) co_return;
    S3Call call;
    call.action = "write part " + std::to_string(number) + " of " + state->address();
    call.method = "PUT";
    call.key = state->key;
    call.query = {{"partNumber", std::to_string(number)}, {"uploadId", state->id}};
    call.body = body;
    try {
      const S3Answer answer = co_await state->client->call(std::move(call));
      state->parts[static_cast<std::size_t>(number - 1)] = {
          number, std::string(answer.response.header("ETag").value_or(""))};
    } catch (...) {
      if (!state->failure) state->failure = std::current_exception();
    }
  }

  static asio::awaitable<void> abandon(std::shared_ptr<State> state) {
    try {
      co_await settle(state);
      co_await s3_abort(state->client, state->key, state->id);
    } catch (const std::exception&) {
      // abort_stale_uploads() finds it later
    }
  }

  const std::shared_ptr<S3Client> client;
  const std::string key;
  Semaphore places;
  std::string id;  // empty: not begun
  bool completed = false;
  std::vector<xml::Part> parts;
  std::exception_ptr failure;  // the first part's that failed
};

S3Upload::S3Upload(std::shared_ptr<S3Client> client, std::string key, std::uint64_t size_hint,
                   PutOptions options, http::Headers headers)
    : state_(std::make_shared<State>(std::move(client), std::move(key))),
      part_size_(part_size_for(size_hint)),
      options_(options),
      headers_(std::move(headers)) {
  reserve_apart(buffer_, std::min<std::uint64_t>(size_hint, part_size_));
}

S3Upload::~S3Upload() {
  if (state_->id.empty() || state_->completed) return;
  try {
    if (!state_->failure)
      state_->failure = std::make_exception_ptr(Error("the upload was given up"));
    asio::co_spawn(state_->client->executor(), State::abandon(state_), asio::detached);
  } catch (...) {  // NOLINT(bugprone-empty-catch)
    // no memory: abort_stale_uploads() finds it later
  }
}

asio::awaitable<void> S3Upload::write(Bytes data) {
  ByteView rest = data;
  while (!rest.empty()) {
    if (buffer_.size() == part_size_) co_await send_part();
    const std::size_t n = std::min(rest.size(), part_size_ - buffer_.size());
    buffer_.insert(buffer_.end(), rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(n));
    rest = rest.subspan(n);
  }
}

asio::awaitable<void> S3Upload::finish() {
  if (state_->id.empty()) {
    co_await s3_put(state_->client, state_->key, std::move(buffer_), options_, headers_);
    co_return;
  }
  co_await send_part();
  co_await State::settle(state_);
  if (state_->failure) std::rethrow_exception(state_->failure);
  co_await complete();
  state_->completed = true;
}

asio::awaitable<void> S3Upload::send_part() {
  if (state_->id.empty()) {
    S3Call call;
    call.action = "begin to write " + state_->address();
    call.method = "POST";
    call.key = state_->key;
    call.query = {{"uploads", ""}};
    call.headers = headers_;
    const std::string action = call.action;
    const S3Answer answer = co_await state_->client->call(std::move(call));
    const auto id = xml::parse_upload_id(answer.response.body);
    if (!id)
      throw StoreError(Kind::rejected,
                       "cannot " + action +
                           ": the answer is not S3's; is there an S3 service at that endpoint?");
    state_->id = *id;
  }
  Semaphore::Permit place = co_await state_->places.acquire();
  if (state_->failure) std::rethrow_exception(state_->failure);
  state_->parts.emplace_back();
  const int number = static_cast<int>(state_->parts.size());
  Bytes body = std::exchange(buffer_, {});
  reserve_apart(buffer_, part_size_);
  asio::co_spawn(state_->client->executor(),
                 State::send(state_, number, std::move(body), std::move(place)), asio::detached);
}

asio::awaitable<void> S3Upload::complete() {
  const std::string body = xml::complete_upload(state_->parts);
  while (true) {
    const bool conditional = options_.if_absent && state_->client->has_conditional_puts;
    S3Call call;
    call.action = "write " + state_->address();
    call.method = "POST";
    call.key = state_->key;
    call.query = {{"uploadId", state_->id}};
    call.headers = {{"Content-Type", "application/xml"}};
    if (conditional) call.headers.emplace_back("If-None-Match", "*");
    call.body = as_bytes(body);
    call.error_in_200 = true;
    std::optional<S3Failure> refused;
    try {
      co_await state_->client->call(std::move(call));
    } catch (const S3Failure& failure) {
      refused = failure;
    }
    if (!refused) co_return;
    if (conditional && refused->status == 501) {
      state_->client->has_conditional_puts = false;
      continue;
    }
    // An upload that is gone after an answer was lost was completed by that attempt, if the object
    // is there: nobody else knows its id.
    if (refused->code != "NoSuchUpload" || !refused->maybe_acted) throw S3Failure(*refused);
    S3Call look;
    look.action = "read " + state_->address();
    look.key = state_->key;
    look.headers = {{"Range", "bytes=0-0"}};
    co_await state_->client->call(std::move(look));
    co_return;
  }
}

asio::awaitable<void> s3_abort(std::shared_ptr<S3Client> client, std::string key, std::string id) {
  S3Call call;
  call.action = "give up the upload of s3://" + client->bucket() + "/" + key;
  call.method = "DELETE";
  call.key = std::move(key);
  call.query = {{"uploadId", std::move(id)}};
  try {
    co_await client->call(std::move(call));
  } catch (const S3Failure& failure) {
    if (failure.status != 404) throw;
  }
}

}  // namespace sqlstream
