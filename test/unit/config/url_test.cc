#include "support.h"

using namespace sqlstream;
using namespace sqlstream::config;
using namespace sqlstream::config::testing;
using namespace std::chrono_literals;

namespace {

ReplicaSettings parse(std::string_view url, std::map<std::string, std::string> env = {}) {
  return parse_replica_url(url, fake_environment(std::move(env)));
}

std::string refusal(std::string_view url, std::map<std::string, std::string> env = {}) {
  return error_of([&] { parse(url, std::move(env)); });
}

}  // namespace

TEST_CASE("a plain S3 URL names bucket and path") {
  const auto replica = parse("s3://bkt/a/b/app.db");
  CHECK(replica.name == "s3");
  CHECK(replica.store.type == StoreSettings::Type::s3);
  CHECK(replica.store.bucket == "bkt");
  CHECK(replica.store.path == "a/b/app.db");
  CHECK(replica.store.endpoint.empty());
  CHECK(replica.store.region.empty());
  CHECK_FALSE(replica.store.force_path_style.has_value());
  CHECK_FALSE(replica.store.skip_verify);
  CHECK(replica.sync_interval == 1s);
  CHECK(replica.retention == 24h);
}

TEST_CASE("an S3 path is decoded and cleaned") {
  CHECK(parse("s3://bkt").store.path.empty());
  CHECK(parse("s3://bkt/").store.path.empty());
  CHECK(parse("s3://bkt//a///b/./c/").store.path == "a/b/c");
  CHECK(parse("s3://bkt/a%20b/%C3%A9").store.path == "a b/\u00e9");
  CHECK(parse("s3://my.dotted.bucket/db").store.bucket == "my.dotted.bucket");
  CHECK(parse("S3://bkt/x").store.bucket == "bkt");
}

TEST_CASE("the query sets options") {
  const auto replica = parse(
      "s3://bkt/db?endpoint=http://127.0.0.1:9000&region=eu-west-1&force-path-style=true"
      "&skip-verify=1&ca-file=%2Fetc%2Fca.pem&sync-interval=250ms&adaptive=5000&retention=1h"
      "&snapshot-interval=30m&name=main&storage-class=STANDARD_IA");
  CHECK(replica.store.endpoint == "http://127.0.0.1:9000");
  CHECK(replica.store.region == "eu-west-1");
  CHECK(replica.store.force_path_style == true);
  CHECK(replica.store.skip_verify);
  CHECK(replica.store.ca_file == "/etc/ca.pem");
  CHECK(replica.store.storage_class == "STANDARD_IA");
  CHECK(replica.sync_interval == 250ms);
  CHECK(replica.adaptive == 5000);
  CHECK(replica.retention == 1h);
  CHECK(replica.snapshot_interval == 30min);
  CHECK(replica.name == "main");
  CHECK(parse("s3://b/db?retention=0").retention == 0s);
  // A '+' in a query stands for itself.
  CHECK(parse("s3://b/db?ca-file=/a+b").store.ca_file == "/a+b");
}

TEST_CASE("an endpoint may lack its scheme and end in a slash") {
  CHECK(parse("s3://b/p?endpoint=localhost:9000").store.endpoint == "http://localhost:9000");
  CHECK(parse("s3://b/p?endpoint=minio.lan:9000").store.endpoint == "https://minio.lan:9000");
  CHECK(parse("s3://b/p?endpoint=https://minio.lan/").store.endpoint == "https://minio.lan");
  CHECK(parse("s3://b/p?endpoint=http://[::1]:9000").store.endpoint == "http://[::1]:9000");
}

TEST_CASE("an endpoint that is no address is refused") {
  CHECK(contains(refusal("s3://b/p?endpoint=ftp://h"), "scheme must be http or https"));
  CHECK(contains(refusal("s3://b/p?endpoint=http://h/path"), "without a path"));
  CHECK(contains(refusal("s3://b/p?endpoint=http://"), "names no host"));
  CHECK(contains(refusal("s3://b/p?endpoint=http://h:0"), "port must be a number"));
  CHECK(contains(refusal("s3://b/p?endpoint=http://h:99999"), "port must be a number"));
  CHECK(contains(refusal("s3://b/p?endpoint="), "endpoint is empty"));
  const auto text = refusal("s3://b/p?endpoint=http://KEYID:hush@h");
  CHECK(contains(text, "AWS_SECRET_ACCESS_KEY"));
  CHECK_FALSE(contains(text, "hush"));
}

TEST_CASE("a host beside the bucket is the endpoint") {
  auto store = parse("s3://mybkt.localhost:9000/db").store;
  CHECK(store.bucket == "mybkt");
  CHECK(store.endpoint == "http://localhost:9000");
  CHECK(store.region == "us-east-1");
  CHECK(store.force_path_style == true);

  store = parse("s3://mybkt.localhost/db").store;
  CHECK(store.bucket == "mybkt");
  CHECK(store.endpoint == "http://localhost");

  store = parse("s3://mybkt.127.0.0.1:9000/db").store;
  CHECK(store.bucket == "mybkt");
  CHECK(store.endpoint == "http://127.0.0.1:9000");

  store = parse("s3://mybkt.minio.example.com:9000/db").store;
  CHECK(store.bucket == "mybkt");
  CHECK(store.endpoint == "https://minio.example.com:9000");
}

TEST_CASE("services are known by their host names") {
  struct Expected {
    const char* host;
    const char* endpoint;
    const char* region;
    bool path_style;
  };
  for (const auto& expected : {
           Expected{"s3.us-west-004.backblazeb2.com", "https://s3.us-west-004.backblazeb2.com",
                    "us-west-004", true},
           Expected{"s3.filebase.com", "https://s3.filebase.com", "us-east-1", true},
           Expected{"fra1.digitaloceanspaces.com", "https://fra1.digitaloceanspaces.com", "fra1",
                    true},
           Expected{"us-east-1.linodeobjects.com", "https://us-east-1.linodeobjects.com",
                    "us-east-1", true},
           Expected{"s3.fr-par.scw.cloud", "https://s3.fr-par.scw.cloud", "fr-par", true},
           Expected{"abc123.r2.cloudflarestorage.com", "https://abc123.r2.cloudflarestorage.com",
                    "auto", true},
           Expected{"abc123.eu.r2.cloudflarestorage.com",
                    "https://abc123.eu.r2.cloudflarestorage.com", "auto", true},
           Expected{"fsn1.your-objectstorage.com", "https://fsn1.your-objectstorage.com", "fsn1",
                    true},
           Expected{"s3.eu-central-1.wasabisys.com", "https://s3.eu-central-1.wasabisys.com",
                    "eu-central-1", true},
           Expected{"s3.wasabisys.com", "https://s3.wasabisys.com", "us-east-1", true},
           Expected{"fly.storage.tigris.dev", "https://fly.storage.tigris.dev", "auto", false},
           Expected{"s3.eu-west-3.amazonaws.com", "https://s3.eu-west-3.amazonaws.com", "eu-west-3",
                    false},
           Expected{"s3.amazonaws.com", "https://s3.amazonaws.com", "", false},
       }) {
    const std::string host = expected.host;
    CAPTURE(host);
    // As part of the URL, with a bucket whose name has a dot; the environment does not interfere.
    auto store =
        parse("s3://my.bkt." + host + "/db", {{"AWS_ENDPOINT_URL", "http://elsewhere"}}).store;
    CHECK(store.bucket == "my.bkt");
    CHECK(store.endpoint == expected.endpoint);
    CHECK(store.region == expected.region);
    CHECK(store.force_path_style == expected.path_style);
    // As an endpoint.
    store = parse("s3://bkt/db?endpoint=" + host).store;
    CHECK(store.bucket == "bkt");
    CHECK(store.endpoint == expected.endpoint);
    CHECK(store.region == expected.region);
    CHECK(store.force_path_style == expected.path_style);
  }
  const auto store =
      parse("s3://b/db?endpoint=s3.filebase.com&region=x&force-path-style=false").store;
  CHECK(store.region == "x");
  CHECK(store.force_path_style == false);
}

TEST_CASE("a server without a bucket is refused with the right way to write it") {
  CHECK(contains(refusal("s3://localhost:9000/bkt/db"),
                 "s3://BUCKET/path?endpoint=http://localhost:9000"));
  CHECK(contains(refusal("s3://127.0.0.1:9000/bkt/db"), "no bucket"));
  CHECK(contains(refusal("s3://s3.wasabisys.com/bkt"), "s3://BUCKET.s3.wasabisys.com/path"));
  CHECK(contains(refusal("s3://bkt:9000/db"), "no host"));
  CHECK(contains(refusal("s3:///db"), "names no bucket"));
}

TEST_CASE("the environment gives endpoint and region that the URL leaves open") {
  auto store = parse("s3://b/p", {{"AWS_ENDPOINT_URL_S3", "http://one:1"},
                                  {"AWS_ENDPOINT_URL", "http://two:2"},
                                  {"AWS_REGION", "r1"},
                                  {"AWS_DEFAULT_REGION", "r2"}})
                   .store;
  CHECK(store.endpoint == "http://one:1");
  CHECK(store.region == "r1");
  store =
      parse("s3://b/p", {{"AWS_ENDPOINT_URL", "http://two:2"}, {"AWS_DEFAULT_REGION", "r2"}}).store;
  CHECK(store.endpoint == "http://two:2");
  CHECK(store.region == "r2");
  store = parse("s3://b/p?endpoint=http://three&region=r3",
                {{"AWS_ENDPOINT_URL", "http://two:2"}, {"AWS_REGION", "r2"}})
              .store;
  CHECK(store.endpoint == "http://three");
  CHECK(store.region == "r3");
  CHECK(contains(refusal("s3://b/p", {{"AWS_ENDPOINT_URL", "ftp://x"}}),
                 "environment variable AWS_ENDPOINT_URL: "));
  // A file replica has neither.
  CHECK(parse("file:///b", {{"AWS_ENDPOINT_URL", "ftp://x"}}).store.endpoint.empty());
}

TEST_CASE("file URLs and plain paths name a folder") {
  auto replica = parse("file:///var/lib/backup/app%20one?sync-interval=0");
  CHECK(replica.name == "file");
  CHECK(replica.store.type == StoreSettings::Type::file);
  CHECK(replica.store.path == "/var/lib/backup/app one");
  CHECK(replica.sync_interval == 0s);
  CHECK(parse("file://localhost/a/b/").store.path == "/a/b");

  // A plain path is taken literally.
  CHECK(parse("/a/b%20c?d#e/").store.path == "/a/b%20c?d#e");
  CHECK(parse("/a/../b//c").store.path == "/b/c");

  CHECK(contains(refusal("file:///"), "no folder"));
  CHECK(contains(refusal("/"), "no folder"));
  CHECK(contains(refusal("file://a/b"), "three slashes"));
  CHECK(contains(refusal("file:///a/../b"), "\"..\""));
  CHECK(contains(refusal("file:///a?region=x"), "no meaning for a file replica"));
}

TEST_CASE("malformed URLs get one sentence") {
  for (const char* url : {"",
                          "bucket/path",
                          "s3:bucket",
                          "s3://bu cket/p",
                          "s3://b/p#x",
                          "s3://b/%zz",
                          "s3://b/p%00",
                          "s3://b/a/../b",
                          "http://b/p",
                          "sftp://u/p",
                          "gs://b/p",
                          "abs://b/p",
                          "nats://b/p",
                          "s3://b:port/p",
                          "s3://b.host:0/p",
                          "s3://b/{nme}",
                          "://b/p",
                          "s3://b/p?x=1",
                          "s3://b/p?region=a&region=b",
                          "s3://b/p?sync-interval=5",
                          "s3://b/p?adaptive=-1",
                          "s3://b/p?adaptive=5k",
                          "s3://b/p?adaptive=99999999999999999999",
                          "s3://b/p?retention=-1s",
                          "s3://b/p?skip-verify=maybe",
                          "s3://b/p?region="}) {
    CAPTURE(url);
    const auto text = refusal(url);
    CAPTURE(text);
    CHECK_FALSE(text.empty());
    CHECK_FALSE(contains(text, "\n"));
  }
  CHECK(contains(refusal("s3://b/p?regoin=1"), "\"regoin\""));
  CHECK(contains(refusal("s3://b/p?regoin=1"),
                 "known are adaptive, ca-file, compaction, endpoint, exclusive, force-path-style"));
  CHECK(contains(refusal("s3://b/{nme}"), "in braces only {name}"));
  CHECK(contains(refusal("s3://b/{name}"), "write here what they would stand for"));
}

TEST_CASE("a URL of another kind of replica is named, whatever else it holds") {
  CHECK(contains(refusal("sftp://user:pw@host/path"), "replicas of type sftp are not supported"));
}

TEST_CASE("secrets in a URL are refused and never repeated") {
  for (const char* url : {"s3://KEYID:hush@bkt/db", "s3://KEYID:hu/sh@bkt/db", "s3://hush@bkt/db",
                          "s3://b/p?secret-access-key=hush", "s3://b/p?access-key-id=hush",
                          "s3://b/p?what=hush", "s3://b/p?session-token=hush"}) {
    CAPTURE(url);
    const auto text = refusal(url);
    CAPTURE(text);
    CHECK_FALSE(contains(text, "hush"));
    CHECK_FALSE(contains(text, "KEYID"));
    if (!contains(url, "what=")) CHECK(contains(text, "AWS_SECRET_ACCESS_KEY"));
  }
}

TEST_CASE("a pattern is expanded for a database") {
  CHECK(expand_replica_url("s3://b/{name}", "/srv/app.db") == "s3://b/app.db");
  CHECK(expand_replica_url("s3://b/x/{path}?region=r", "/srv/my app/ü.db") ==
        "s3://b/x/srv/my%20app/%C3%BC.db?region=r");
  CHECK(expand_replica_url("/backup/{path}", "/srv/my app.db") == "/backup/srv/my app.db");
  CHECK(expand_replica_url("s3://b/fixed", "/srv/app.db") == "s3://b/fixed");
  CHECK(expand_replica_url("s3://b/{nme}{", "/srv/app.db") == "s3://b/{nme}{");
  // Names with the pattern's own words or URL syntax in them stay names.
  CHECK(expand_replica_url("s3://b/{name}", "/srv/{path}?a#b") == "s3://b/%7Bpath%7D%3Fa%23b");
  const auto url = expand_replica_url("s3://b/{name}", "/srv/{path}?a#b");
  CHECK(parse(url).store.path == "{path}?a#b");
}
