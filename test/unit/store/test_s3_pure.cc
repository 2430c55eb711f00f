#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <map>

#include <doctest/doctest.h>

#include "store/s3/crypto.h"
#include "store/s3/failure.h"
#include "store/s3/metadata_credentials.h"
#include "store/s3/profiles.h"
#include "store/s3/proxy.h"
#include "store/s3/retry.h"
#include "store/s3/s3_client.h"
#include "store/s3/s3_upload.h"
#include "store/s3/sigv4.h"
#include "store/s3/xml.h"

// The parts of the S3 store that do no I/O.

using namespace sqlstream;
using namespace std::chrono_literals;

namespace {

// The example account of AWS's documentation.
const sigv4::Keys kExampleKeys{"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                               ""};

std::string example_signature(http::Request request, std::string_view body) {
  request.origin = {true, "examplebucket.s3.amazonaws.com", 443};
  sigv4::SigningKey key;
  sigv4::sign(request, kExampleKeys, {"us-east-1", "s3"}, *parse_rfc3339("2013-05-24T00:00:00Z"),
              crypto::hex(crypto::sha256(as_bytes(body))), key);
  const std::string header(*http::find_header(request.headers, "authorization"));
  return header.substr(header.find("Signature=") + 10);
}

http::Response answer(int status, std::string_view body, http::Headers headers = {}) {
  const ByteView view = as_bytes(body);
  return {status, std::move(headers), Bytes(view.begin(), view.end())};
}

Environment environment(std::map<std::string, std::string> values) {
  return [values](const std::string& name) -> std::optional<std::string> {
    const auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  };
}

}  // namespace

// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
TEST_CASE("signatures of AWS's documented examples") {
  http::Request get;
  get.path = "/test.txt";
  get.headers = {{"Range", "bytes=0-9"}};
  CHECK(example_signature(get, "") ==
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");

  http::Request put;
  put.method = "PUT";
  put.path = "/" + http::percent_encode("test$file.text", true);
  put.headers = {{"Date", "Fri, 24 May 2013 00:00:00 GMT"},
                 {"x-amz-storage-class", "REDUCED_REDUNDANCY"}};
  CHECK(example_signature(put, "Welcome to Amazon S3.") ==
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");

  http::Request lifecycle;
  lifecycle.query = {{"lifecycle", ""}};
  CHECK(example_signature(lifecycle, "") ==
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");

  http::Request list;
  list.query = {{"prefix", "J"}, {"max-keys", "2"}};
  CHECK(example_signature(list, "") ==
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

TEST_CASE("a session token is sent and signed") {
  http::Request request;
  request.origin = {false, "h", 9000};
  sigv4::SigningKey key;
  sigv4::sign(request, {"id", "secret", "the-token"}, {"r", "s3"}, Time(), "hash", key);
  CHECK(*request.headers.begin() ==
        std::pair<std::string, std::string>("x-amz-date", "19700101T000000Z"));
  CHECK(*http::find_header(request.headers, "X-Amz-Security-Token") == "the-token");
  CHECK(http::find_header(request.headers, "Authorization")
            ->find("SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,") !=
        std::string::npos);
}

TEST_CASE("a signing key that is kept signs as a new one, whatever changes") {
  const sigv4::Keys keys{"id", "secret", ""};
  const sigv4::Keys others{"id", "other", ""};
  const Time noon = *parse_rfc3339("2013-05-24T12:00:00Z");
  sigv4::SigningKey kept;
  const auto expect_same = [&](const sigv4::Keys& with, const sigv4::Scope& scope, Time time) {
    http::Request one;
    http::Request other;
    one.origin = other.origin = {false, "h", 9000};
    sigv4::SigningKey fresh;
    sigv4::sign(one, with, scope, time, "hash", kept);
    sigv4::sign(other, with, scope, time, "hash", fresh);
    CHECK(*http::find_header(one.headers, "Authorization") ==
          *http::find_header(other.headers, "Authorization"));
  };
  expect_same(keys, {"r", "s3"}, noon);
  expect_same(keys, {"r", "s3"}, noon + 1s);
  expect_same(keys, {"r", "s3"}, noon + 24h);
  expect_same(others, {"r", "s3"}, noon + 24h);
  expect_same(others, {"r", "sts"}, noon + 24h);
  expect_same(others, {"q", "sts"}, noon + 24h);
  expect_same(keys, {"r", "s3"}, noon);
}

TEST_CASE("percent encoding") {
  CHECK(http::percent_encode("a/b c+%~\xc3\xa4", true) == "a/b%20c%2B%25~%C3%A4");
  CHECK(http::percent_encode("a/b", false) == "a%2Fb");
  CHECK(http::percent_decode("a%2Fb+c%zz%", false) == "a/b+c%zz%");
  CHECK(http::percent_decode("a+b%2B", true) == "a b+");
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  CHECK(http::percent_decode(http::percent_encode(all, true), true) == all);
}

TEST_CASE("URLs") {
  auto url = http::parse_url("https://User:p%40ss@Example.com:8443/a?b");
  REQUIRE(url);
  CHECK(url->origin == http::Origin{true, "example.com", 8443});
  CHECK(url->user_info == "User:p@ss");
  CHECK(url->path == "/a?b");
  CHECK(url->origin.str() == "https://example.com:8443");
  url = http::parse_url("http://[::1]:9000");
  REQUIRE(url);
  CHECK(url->origin == http::Origin{false, "::1", 9000});
  CHECK(url->origin.authority() == "[::1]:9000");
  CHECK(http::parse_url("http://h")->origin.authority() == "h");
  for (const char* bad : {"", "h:80", "ftp://h", "http://", "http://h:0", "http://h:x",
                          "http://h:99999", "http://[::1", "http://[::1]x"}) {
    CAPTURE(bad);
    CHECK_FALSE(http::parse_url(bad));
  }
}

TEST_CASE("dates and Retry-After") {
  const auto date = http::parse_date("Fri, 24 May 2013 01:02:03 GMT");
  REQUIRE(date);
  CHECK(format_rfc3339(*date) == "2013-05-24T01:02:03Z");
  CHECK_FALSE(http::parse_date("Fri, 24 Mai 2013 01:02:03 GMT"));
  CHECK_FALSE(http::parse_date("Fri, 31 Feb 2013 01:02:03 GMT"));
  CHECK_FALSE(http::parse_date("yesterday"));
  CHECK(http::parse_retry_after("7", *date) == 7s);
  CHECK(http::parse_retry_after("Fri, 24 May 2013 01:02:13 GMT", *date) == 10s);
  CHECK(http::parse_retry_after("Fri, 24 May 2013 01:01:13 GMT", *date) == 0s);
  CHECK_FALSE(http::parse_retry_after("soon", *date));
  // Nanoseconds do not reach that far, nor from one end of what they reach to the other.
  CHECK_FALSE(http::parse_date("Fri, 31 Dec 9999 23:59:59 GMT"));
  CHECK_FALSE(http::parse_date("Fri, 31 Dec 1677 23:59:59 GMT"));
  CHECK(http::parse_retry_after("Sat, 01 Jan 1678 00:00:00 GMT", *date) == 0s);
  CHECK(http::parse_retry_after("Sat, 01 Jan 2261 00:00:00 GMT", Time::min()) > 24h);
}

TEST_CASE("a list page") {
  const auto page = xml::parse_list(as_bytes(R"(<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
<NextContinuationToken>1ueG==</NextContinuationToken>
<Contents><Key>a/b+c%2Bd</Key><LastModified>2009-10-12T17:50:30.123Z</LastModified>
<Size>5000000000</Size></Contents>
<CommonPrefixes><Prefix>x%20y/</Prefix></CommonPrefixes></ListBucketResult>)"));
  REQUIRE(page);
  REQUIRE(page->objects.size() == 1);
  CHECK(page->objects[0].key == "a/b c+d");
  CHECK(page->objects[0].size == 5'000'000'000);
  CHECK(page->objects[0].modified == parse_rfc3339("2009-10-12T17:50:30.123Z"));
  CHECK(page->prefixes == std::vector<std::string>{"x y/"});
  CHECK(page->next_token == "1ueG==");
  const auto plain = xml::parse_list(
      as_bytes("<ListBucketResult><IsTruncated>false</IsTruncated><NextContinuationToken>x"
               "</NextContinuationToken><Contents><Key>a+%20</Key></Contents></ListBucketResult>"));
  REQUIRE(plain);
  CHECK(plain->objects[0].key == "a+%20");
  CHECK(plain->next_token.empty());
  CHECK_FALSE(xml::parse_list(as_bytes("<html>hello</html>")));
  CHECK_FALSE(xml::parse_list(as_bytes("<ListBucketResult>")));
  CHECK_FALSE(xml::parse_list({}));
}

TEST_CASE("multipart documents") {
  CHECK(xml::parse_upload_id(as_bytes("<InitiateMultipartUploadResult><Bucket>b</Bucket>"
                                      "<UploadId>id</UploadId></InitiateMultipartUploadResult>")) ==
        "id");
  CHECK_FALSE(xml::parse_upload_id(as_bytes("<Error><UploadId>id</UploadId></Error>")));
  const std::string body = xml::complete_upload({{1, "\"a\""}, {2, "\"b\""}});
  CHECK(body.find("<Part><PartNumber>2</PartNumber><ETag>\"b\"</ETag></Part>") !=
        std::string::npos);
  CHECK(xml::is_completed(as_bytes("<CompleteMultipartUploadResult/>")));
  CHECK_FALSE(xml::is_completed(as_bytes("<Error><Code>InternalError</Code></Error>")));
  const auto uploads = xml::parse_uploads(as_bytes(
      "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>"
      "<NextUploadIdMarker>i</NextUploadIdMarker><Upload><Key>a</Key><UploadId>1</UploadId>"
      "<Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload></ListMultipartUploadsResult>"));
  REQUIRE(uploads);
  CHECK(uploads->next_key == "k");
  CHECK(uploads->next_id == "i");
  REQUIRE(uploads->uploads.size() == 1);
  CHECK(uploads->uploads[0].initiated == parse_rfc3339("2010-11-10T20:48:33Z"));
  CHECK(part_size_for(0) == 5 << 20);
  CHECK(part_size_for(std::uint64_t{100} << 30) * 9'000 >= std::uint64_t{100} << 30);
}

TEST_CASE("deleting several") {
  CHECK(xml::delete_objects({"a<b", "c"}).find("<Object><Key>a&lt;b</Key></Object>") !=
        std::string::npos);
  const auto failures = xml::parse_delete_result(
      as_bytes("<DeleteResult><Deleted><Key>a</Key></Deleted><Error><Key>b</Key>"
               "<Code>AccessDenied</Code><Message>No</Message></Error></DeleteResult>"));
  REQUIRE(failures);
  REQUIRE(failures->size() == 1);
  CHECK((*failures)[0].key == "b");
  CHECK((*failures)[0].error.code == "AccessDenied");
}

TEST_CASE("refusals become sentences") {
  const S3Context context{"write s3://b/k", "b", "https://host"};
  const auto kind = [&](int status, const char* body) {
    const S3Failure failure = refusal(context, answer(status, body));
    CHECK(std::string(failure.what()).starts_with("cannot write s3://b/k at https://host: "));
    return failure.kind();
  };
  using Kind = StoreError::Kind;
  CHECK(kind(404, "<Error><Code>NoSuchKey</Code></Error>") == Kind::not_found);
  CHECK(kind(404, "<Error><Code>NoSuchBucket</Code></Error>") == Kind::no_bucket);
  CHECK(kind(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>") == Kind::denied);
  CHECK(kind(403, "<Error><Code>SomethingNew</Code></Error>") == Kind::denied);
  CHECK(kind(403, "") == Kind::denied);
  CHECK(kind(400, "<Error><Code>ExpiredToken</Code></Error>") == Kind::denied);
  CHECK(kind(412, "") == Kind::exists);
  CHECK(kind(503, "") == Kind::unavailable);
  CHECK(kind(500, "<html>") == Kind::unavailable);
  CHECK(kind(429, "") == Kind::unavailable);
  CHECK(kind(507, "<Error><Code>XMinioStorageFull</Code></Error>") == Kind::no_space);
  CHECK(kind(400, "<Error><Code>Odd</Code><Message>why</Message></Error>") == Kind::rejected);
  CHECK(kind(301, "") == Kind::rejected);
  CHECK(is_transient(400, "RequestTimeout"));
  CHECK(is_transient(409, "ConditionalRequestConflict"));
  CHECK_FALSE(is_transient(501, "NotImplemented"));
  CHECK_FALSE(is_transient(403, "AccessDenied"));
  CHECK(region_hint(answer(301, "", {{"x-amz-bucket-region", "eu-west-1"}})) == "eu-west-1");
  for (const char* other_host : {"evil.test/", "a@evil.test", "a:b", "a.b", "a b"}) {
    CHECK(region_hint(answer(400, "", {{"x-amz-bucket-region", other_host}})).empty());
  }
  CHECK(region_hint(answer(400,
                           "<Error><Code>AuthorizationHeaderMalformed</Code>"
                           "<Region>eu-west-2</Region></Error>")) == "eu-west-2");
}

TEST_CASE("where requests go") {
  StoreSettings settings;
  settings.type = StoreSettings::Type::s3;
  settings.bucket = "b";
  S3Address address = address_of(settings, "eu-west-1");
  CHECK(address.origin.str() == "https://b.s3.eu-west-1.amazonaws.com");
  CHECK(address.path_prefix.empty());
  CHECK(address_of(settings, "cn-north-1").origin.host == "b.s3.cn-north-1.amazonaws.com.cn");
  settings.bucket = "with.dots";
  address = address_of(settings, "eu-west-1");
  CHECK(address.origin.str() == "https://s3.eu-west-1.amazonaws.com");
  CHECK(address.path_prefix == "/with.dots");
  settings.endpoint = "http://127.0.0.1:9000";
  CHECK(address_of(settings, "").path_prefix == "/with.dots");
  settings.force_path_style = false;
  CHECK(address_of(settings, "").origin.host == "with.dots.127.0.0.1");
  settings.endpoint = "nonsense";
  CHECK_THROWS_AS(address_of(settings, ""), Error);
}

TEST_CASE("retries back off, jitter, and end") {
  RetryPolicy policy;
  policy.budget = 10s;
  RetrySchedule schedule(policy, 1);
  std::chrono::milliseconds elapsed{0};
  std::chrono::milliseconds longest{0};
  int attempts = 0;
  while (const auto pause = schedule.next(elapsed, {})) {
    CHECK(*pause <= std::min(policy.cap, policy.base * (1 << std::min(attempts, 10))));
    longest = std::max(longest, *pause);
    elapsed += *pause + 1ms;
    ++attempts;
  }
  CHECK(attempts >= 5);
  CHECK(elapsed <= policy.budget + 1s);
  CHECK(longest > policy.base);
  RetrySchedule asked(policy, 1);
  CHECK(*asked.next(0ms, 3s) >= 3s);
  CHECK(*asked.next(8s, 120s) < 3s);
  CHECK_FALSE(asked.next(10s + 1ms, {}));
  RetrySchedule connecting(policy, 1);
  CHECK(connecting.next_connect(0ms));
  CHECK(connecting.next_connect(0ms));
  CHECK_FALSE(connecting.next_connect(0ms));
}

TEST_CASE("proxies") {
  const auto proxies =
      http::Proxies::from(environment({{"HTTPS_PROXY", "http://u:p@proxy:3128"},
                                       {"http_proxy", "other:80"},
                                       {"NO_PROXY", "a.com, .b.com,*.c.com h:90"}}));
  const auto proxy = [&](bool tls, const char* host, std::uint16_t port) {
    const http::Url* url = proxies.for_origin({tls, host, port});
    return url ? url->origin.authority() : std::string();
  };
  CHECK(proxy(true, "s3.amazonaws.com", 443) == "proxy:3128");
  CHECK(proxy(false, "s3.amazonaws.com", 80) == "other");
  CHECK(proxies.https->user_info == "u:p");
  for (const char* host : {"a.com", "x.a.com", "x.b.com", "b.com", "x.c.com", "localhost",
                           "b.localhost", "127.0.0.1"}) {
    CAPTURE(host);
    CHECK(proxy(true, host, 443).empty());
  }
  CHECK(proxy(true, "xa.com", 443) == "proxy:3128");
  CHECK(proxy(true, "h", 443) == "proxy:3128");
  CHECK(proxy(true, "h", 90).empty());
  // In a CGI program HTTP_PROXY comes from the client.
  CHECK_FALSE(
      http::Proxies::from(environment({{"REQUEST_METHOD", "GET"}, {"HTTP_PROXY", "http://x"}}))
          .http);
  CHECK_THROWS_AS(http::Proxies::from(environment({{"HTTPS_PROXY", "http://h:secret"}})), Error);
}

TEST_CASE("files of ~/.aws") {
  Profiles profiles;
  read_profiles(
      "# comment\n[default]\naws_access_key_id = ID\r\naws_secret_access_key=SE=CRET\n"
      "[other]\nAWS_ACCESS_KEY_ID=x ; note\n",
      false, profiles);
  read_profiles(
      "[default]\naws_access_key_id = late\nregion=r\ns3 =\n  max_concurrent_requests = 5\n"
      "[profile work]\nrole_arn = arn\n[sso-session x]\nsso_start_url = u\n",
      true, profiles);
  CHECK(profiles["default"]["aws_access_key_id"] == "ID");
  CHECK(profiles["default"]["aws_secret_access_key"] == "SE=CRET");
  CHECK(profiles["default"]["region"] == "r");
  CHECK_FALSE(profiles["default"].contains("max_concurrent_requests"));
  CHECK(profiles["other"]["aws_access_key_id"] == "x");
  CHECK(profiles["work"]["role_arn"] == "arn");
  CHECK(profiles.size() == 3);
}

TEST_CASE("documents of metadata services and the token service") {
  const auto found =
      parse_metadata_credentials(as_bytes(R"({"AccessKeyId":"a","SecretAccessKey":"b","Token":"c",
                   "Expiration":"2030-01-01T00:00:00Z"})"));
  REQUIRE(found);
  CHECK(found->keys == sigv4::Keys{"a", "b", "c"});
  CHECK(found->expires == parse_rfc3339("2030-01-01T00:00:00Z"));
  CHECK_FALSE(parse_metadata_credentials(as_bytes(R"({"AccessKeyId":"a"})")));
  CHECK_FALSE(parse_metadata_credentials(as_bytes("[1")));
  const auto role = xml::parse_assumed_role(
      as_bytes("<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>a</AccessKeyId>"
               "<SecretAccessKey>b</SecretAccessKey><SessionToken>c</SessionToken>"
               "<Expiration>2030-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult>"
               "</AssumeRoleResponse>"));
  REQUIRE(role);
  CHECK(role->session_token == "c");
}
