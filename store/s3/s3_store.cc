#include "store/s3/s3_store.h"

#include <algorithm>
#include <utility>

#include "store/s3/crypto.h"
#include "store/s3/s3_upload.h"
#include "store/s3/xml.h"

namespace sqlstream {
namespace {

using Kind = StoreError::Kind;

constexpr std::size_t kLargestPage = 1000;
constexpr std::size_t kLargestBatch = 1000;
// What S3 takes in one piece; an answer longer than that cannot be an object sqlstream wrote whole.
constexpr std::uint64_t kLargestObject = std::uint64_t{5} << 30;
constexpr std::uint64_t kErrorRoom = 1 << 20;

http::Headers object_headers(const StoreSettings& settings) {
  http::Headers headers;
  if (!settings.storage_class.empty())
    headers.emplace_back("x-amz-storage-class", settings.storage_class);
  if (!settings.server_side_encryption.empty())
    headers.emplace_back("x-amz-server-side-encryption", settings.server_side_encryption);
  if (!settings.kms_key_id.empty())
    headers.emplace_back("x-amz-server-side-encryption-aws-kms-key-id", settings.kms_key_id);
  return headers;
}

[[noreturn]] void throw_not_s3(const std::string& action) {
  throw StoreError(
      Kind::rejected,
      "cannot " + action + ": the answer is not S3's; is there an S3 service at that endpoint?");
}

[[noreturn]] void throw_unordered(const std::string& what) {
  throw StoreError(Kind::rejected,
                   "cannot list " + what +
                       ": the service does not give the keys in their order, as S3 does but for "
                       "directory buckets; use a bucket of another kind");
}

}  // namespace

S3Store::S3Store(const StoreSettings& settings, std::shared_ptr<S3Client> client)
    : url_(settings.url()),
      prefix_(settings.path.empty() ? "" : settings.path + "/"),
      object_headers_(object_headers(settings)),
      client_(std::move(client)) {}

std::string S3Store::address(const std::string& whole_key) const {
  return "s3://" + client_->bucket() + "/" + whole_key;
}

asio::awaitable<void> S3Store::put(std::string key, Bytes body, PutOptions options) {
  co_await s3_put(client_, prefix_ + key, std::move(body), options, object_headers_);
}

asio::awaitable<std::unique_ptr<Upload>> S3Store::start_upload(std::string key,
                                                               std::uint64_t size_hint,
                                                               PutOptions options) {
  co_return std::make_unique<S3Upload>(client_, prefix_ + key, size_hint, options, object_headers_);
}

asio::awaitable<Bytes> S3Store::get(std::string key, std::optional<ByteRange> range) {
  S3Call call;
  call.key = prefix_ + key;
  call.action = "read " + address(call.key);
  call.answer_limit = kLargestObject;
  if (range) {
    // S3 has no empty ranges: one byte tells at least whether the object is there.
    const std::uint64_t size = std::max<std::uint64_t>(range->size, 1);
    call.headers.emplace_back("Range", "bytes=" + std::to_string(range->first) + '-' +
                                           std::to_string(range->first + size - 1));
    call.answer_limit = size + kErrorRoom;
  }
  Bytes body;
  try {
    S3Answer answer = co_await client_->call(std::move(call));
    body = std::move(answer.response.body);
    if (range && answer.response.status != 206) {  // a service that ignores ranges
      const auto first = std::min<std::uint64_t>(range->first, body.size());
      body.erase(body.begin(), body.begin() + static_cast<std::ptrdiff_t>(first));
    }
  } catch (const S3Failure& failure) {
    if (failure.status != 416) throw;  // the range is behind the object's end
  }
  if (range && body.size() > range->size) body.resize(range->size);
  co_return body;
}

asio::awaitable<Listing> S3Store::list(ListQuery query) {
  Listing listing;
  std::string token;
  do {
    const std::size_t have = listing.objects.size() + listing.folders.size();
    const std::size_t want =
        query.limit == 0 ? kLargestPage : std::min(kLargestPage, query.limit - have);
    S3Call call;
    call.action = "list " + address(prefix_ + query.prefix);
    call.query = {{"list-type", "2"},
                  {"encoding-type", "url"},
                  {"prefix", prefix_ + query.prefix},
                  {"max-keys", std::to_string(want)}};
    if (query.folders) call.query.emplace_back("delimiter", "/");
    if (!token.empty()) {
      call.query.emplace_back("continuation-token", token);
    } else if (!query.start_after.empty()) {
      call.query.emplace_back("start-after", prefix_ + query.start_after);
    }
    const S3Answer answer = co_await client_->call(std::move(call));
    auto page = xml::parse_list(answer.response.body);
    if (!page) throw_not_s3("list " + address(prefix_ + query.prefix));
    for (xml::ListPage::Object& object : page->objects) {
      if (!object.key.starts_with(prefix_)) continue;
      std::string key = object.key.substr(prefix_.size());
      if (!listing.objects.empty()) {
        // Where a key is in the list tells what is newest.
        const auto order = key <=> listing.objects.back().key;
        if (order < 0) throw_unordered(address(prefix_ + query.prefix));
        if (order == 0) continue;  // a page that begins with what the one before ended with
      }
      listing.objects.push_back({std::move(key), object.size, object.modified, object.modified});
    }
    for (const std::string& folder : page->prefixes) {
      if (folder.starts_with(prefix_)) listing.folders.push_back(folder.substr(prefix_.size()));
    }
    // Else this would never end.
    if (!token.empty() && page->next_token == token) throw_not_s3("list " + url_);
    token = std::move(page->next_token);
  } while (!token.empty() &&
           (query.limit == 0 || listing.objects.size() + listing.folders.size() < query.limit));
  co_return listing;
}

asio::awaitable<void> S3Store::remove(std::vector<std::string> keys) {
  std::size_t done = 0;
  while (done < keys.size()) {
    const std::size_t size = std::min(kLargestBatch, keys.size() - done);
    std::vector<std::string> batch;
    for (std::size_t i = 0; i < size; ++i) batch.push_back(prefix_ + keys[done + i]);
    bool removed = false;
    if (size > 1 && client_->has_batch_delete) removed = co_await remove_batch(batch);
    if (!removed) {
      for (const std::string& key : batch) co_await remove_one(key);
    }
    done += size;
  }
}

/// False when the service does not know how: then one by one.
asio::awaitable<bool> S3Store::remove_batch(std::vector<std::string> keys) {
  const std::string body = xml::delete_objects(keys);
  S3Call call;
  call.action = "delete " + std::to_string(keys.size()) + " objects in " + url_;
  call.method = "POST";
  call.query = {{"delete", ""}};
  call.body = as_bytes(body);
  try {
    call.headers = {{"Content-MD5", crypto::md5_base64(call.body)},
                    {"Content-Type", "application/xml"}};
  } catch (const StoreError&) {  // OpenSSL may be one that has no MD5
    co_return false;
  }
  const std::string action = call.action;
  Bytes answer;
  try {
    answer = (co_await client_->call(std::move(call))).response.body;
  } catch (const S3Failure& failure) {
    if (failure.status != 501 && failure.status != 405 && failure.code != "NotImplemented" &&
        failure.code != "MalformedXML")
      throw;
    client_->has_batch_delete = false;
    co_return false;
  }
  const auto failures = xml::parse_delete_result(answer);
  if (!failures) throw_not_s3(action);
  // Each on its own is retried, and says clearly what is wrong with it.
  for (const xml::DeleteFailure& failure : *failures) {
    // Nothing is deleted because an answer names it.
    if (std::ranges::find(keys, failure.key) == keys.end()) throw_not_s3(action);
    if (failure.error.code != "NoSuchKey") co_await remove_one(failure.key);
  }
  co_return true;
}

asio::awaitable<void> S3Store::remove_one(std::string key) {
  S3Call call;
  call.action = "delete " + address(key);
  call.method = "DELETE";
  call.key = std::move(key);
  try {
    co_await client_->call(std::move(call));
  } catch (const S3Failure& failure) {
    if (failure.kind() != Kind::not_found) throw;
  }
}

asio::awaitable<void> S3Store::abort_stale_uploads(std::string prefix,
                                                   std::chrono::seconds older_than) {
  const Time before = now() - older_than;
  std::string next_key;
  std::string next_id;
  do {
    S3Call call;
    call.action = "list unfinished uploads in " + url_;
    call.query = {{"uploads", ""}, {"encoding-type", "url"}, {"prefix", prefix_ + prefix}};
    if (!next_key.empty()) call.query.emplace_back("key-marker", next_key);
    if (!next_id.empty()) call.query.emplace_back("upload-id-marker", next_id);
    const std::string action = call.action;
    const S3Answer answer = co_await client_->call(std::move(call));
    auto page = xml::parse_uploads(answer.response.body);
    if (!page) throw_not_s3(action);
    for (const xml::UploadsPage::Upload& upload : page->uploads) {
      if (upload.initiated < before && upload.key.starts_with(prefix_ + prefix))
        co_await s3_abort(client_, upload.key, upload.id);
    }
    // Else this would never end.
    if (!next_key.empty() && page->next_key == next_key && page->next_id == next_id)
      throw_not_s3(action);
    next_key = std::move(page->next_key);
    next_id = std::move(page->next_id);
  } while (!next_key.empty());
}

asio::awaitable<void> s3_put(std::shared_ptr<S3Client> client, std::string key, Bytes body,
                             PutOptions options, http::Headers headers) {
  const std::string action = "write s3://" + client->bucket() + "/" + key;
  while (true) {
    const bool conditional = options.if_absent && client->has_conditional_puts;
    S3Call call;
    call.action = action;
    call.method = "PUT";
    call.key = key;
    call.headers = headers;
    if (conditional) call.headers.emplace_back("If-None-Match", "*");
    call.body = body;
    std::optional<S3Failure> refused;
    try {
      co_await client->call(std::move(call));
    } catch (const S3Failure& failure) {
      refused = failure;
    }
    if (!refused) co_return;
    if (!conditional) throw S3Failure(*refused);
    if (refused->status == 501) {
      client->has_conditional_puts = false;
      continue;
    }
    if (refused->kind() != Kind::exists || !refused->maybe_acted) throw S3Failure(*refused);
    // An attempt whose answer was lost may have been ours: then what is there is what we wrote.
    S3Call look;
    look.action = "read s3://" + client->bucket() + "/" + key;
    look.key = key;
    look.answer_limit = body.size() + kErrorRoom;
    const S3Answer there = co_await client->call(std::move(look));
    if (there.response.body != body) throw S3Failure(*refused);
    co_return;
  }
}

}  // namespace sqlstream
