#include <mutex>

#include "support.h"
#include "temp_folder.h"

using namespace sqlstream;
using namespace sqlstream::config;
using namespace sqlstream::config::testing;
using namespace std::chrono_literals;

namespace {

/// Collects log lines while it lives.
class LogCapture {
 public:
  LogCapture() {
    log::set_sink(
        [this](log::Level, std::string_view line) {
          const std::lock_guard lock(mutex_);
          text_ += std::string(line) + '\n';
        },
        log::Level::debug);
  }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;
  ~LogCapture() { log::set_sink({}); }

  std::string text() const {
    const std::lock_guard lock(mutex_);
    return text_;
  }
  bool has(const std::string& part) const { return contains(text(), part); }

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

Config read(const std::string& text, std::map<std::string, std::string> env = {},
            bool expand = true) {
  const TempFolder folder;
  return read_config(folder.write("c.yml", text), fake_environment(std::move(env)),
                     {.expand_env = expand});
}

std::string refusal(const std::string& text, std::map<std::string, std::string> env = {}) {
  auto sentence = error_of([&] { read(text, std::move(env)); });
  CHECK_FALSE(contains(sentence, "\n"));
  CHECK(contains(sentence, "c.yml"));
  // Where it is, once.
  CHECK(sentence.find(" line ") == sentence.rfind(" line "));
  return sentence;
}

}  // namespace

TEST_CASE("a Litestream configuration is read") {
  const LogCapture log;
  const auto config = read(R"(
access-key-id: AKID
secret-access-key: hush
exec: app --port 8080
dbs:
  - path: /srv/none/app.db
    monitor-interval: 1s
    checkpoint-interval: 1m
    min-checkpoint-page-count: 500
    max-checkpoint-page-count: 5000
    replicas:
      - url: s3://bkt/app
        retention: 48h
        retention-check-interval: 10m
        sync-interval: 500ms
        snapshot-interval: 1m30s
        validation-interval: 6h
      - name: second
        type: s3
        bucket: other
        path: /deep//app/
        region: eu-west-1
        endpoint: localhost:9000
        force-path-style: true
        skip-verify: yes
        access-key-id: OWN
        secret-access-key: own-secret
      - type: file
        path: /backup/app
        name: third
  - path: /srv/none/two.db
    replica:
      path: /backup/two
)");
  CHECK(config.exec == "app --port 8080");
  REQUIRE(config.databases.size() == 2);
  const auto& database = config.databases[0];
  CHECK(database.path == "/srv/none/app.db");
  CHECK(database.min_checkpoint_pages == 500);
  CHECK(database.max_checkpoint_pages == 5000);
  REQUIRE(database.replicas.size() == 3);
  const auto& first = database.replicas[0];
  CHECK(first.name == "s3");
  CHECK(first.store.bucket == "bkt");
  CHECK(first.store.path == "app");
  CHECK(first.store.access_key_id == "AKID");
  CHECK(first.store.secret_access_key == "hush");
  CHECK(first.retention == 48h);
  CHECK(first.retention_check_interval == 10min);
  CHECK(first.sync_interval == 500ms);
  CHECK(first.snapshot_interval == 90s);
  CHECK(first.validation_interval == 6h);
  const auto& second = database.replicas[1];
  CHECK(second.name == "second");
  CHECK(second.store.bucket == "other");
  CHECK(second.store.path == "deep/app");
  CHECK(second.store.region == "eu-west-1");
  CHECK(second.store.endpoint == "http://localhost:9000");
  CHECK(second.store.force_path_style == true);
  CHECK(second.store.skip_verify);
  CHECK(second.store.access_key_id == "OWN");
  CHECK(second.store.secret_access_key == "own-secret");
  const auto& third = database.replicas[2];
  CHECK(third.name == "third");
  CHECK(third.store.type == StoreSettings::Type::file);
  CHECK(third.store.path == "/backup/app");
  CHECK(third.store.access_key_id.empty());
  CHECK(config.databases[1].replicas.at(0).store.path == "/backup/two");
  // Litestream's own tuning is named once, and nothing is warned about.
  CHECK(log.has("checkpoint-interval, monitor-interval"));
  CHECK_FALSE(log.has("WARN"));
  CHECK_FALSE(log.has("hush"));
}

TEST_CASE("global keys may stand behind the databases") {
  const auto config = read(
      "dbs: [{path: /none/a.db, replicas: [{url: s3://b/a}]}]\n"
      "access-key-id: AKID\nsecret-access-key: S\n");
  CHECK(config.databases.at(0).replicas.at(0).store.access_key_id == "AKID");
}

TEST_CASE("a replica may be one URL, a bucket may be a URL") {
  auto config = read("dbs: [{path: /none/a.db, replica: 's3://b/a?region=r'}]");
  CHECK(config.databases.at(0).replicas.at(0).store.region == "r");
  config = read(
      "dbs: [{path: /none/a.db, replicas: [{type: s3, bucket: 's3://mybkt.localhost:9000/', "
      "path: db}]}]");
  const auto& store = config.databases.at(0).replicas.at(0).store;
  CHECK(store.bucket == "mybkt");
  CHECK(store.endpoint == "http://localhost:9000");
  CHECK(store.path == "db");
}

TEST_CASE("endpoints of services and the environment complete a replica") {
  const auto config = read(
      "dbs: [{path: /none/a.db, replicas: [{type: s3, bucket: b, path: a, endpoint: "
      "s3.us-west-004.backblazeb2.com}, {name: aws, bucket: b2}, {name: url, url: 's3://b/u', "
      "endpoint: fly.storage.tigris.dev}]}]",
      {{"AWS_REGION", "eu-north-1"}});
  CHECK(config.databases.at(0).replicas.at(0).store.region == "us-west-004");
  CHECK(config.databases.at(0).replicas.at(1).store.region == "eu-north-1");
  CHECK(config.databases.at(0).replicas.at(2).store.region == "auto");
  CHECK(config.databases.at(0).replicas.at(2).store.force_path_style == false);
}

TEST_CASE("own keys of a database") {
  const auto config = read(R"(
dbs:
  - path: ~/app.db
    outbox-dir: ~/out
    outbox-max-size: 2GiB
    shutdown-timeout: 750ms
    replicas: [{path: ~/backup}]
)",
                           {{"HOME", "/none/me"}});
  const auto& database = config.databases.at(0);
  CHECK(database.path == "/none/me/app.db");
  CHECK(database.outbox_dir == "/none/me/out");
  CHECK(database.outbox_max_size == 2ULL << 30);
  CHECK(database.shutdown_timeout == 750ms);
  CHECK(database.replicas.at(0).store.path == "/none/me/backup");
}

TEST_CASE("logging is read") {
  auto config = read("logging: {level: DEBUG, type: json, stderr: true}");
  CHECK(config.logging.level == log::Level::debug);
  CHECK(config.logging.style == log::Style::json);
  CHECK(config.logging.to_stderr);
  config = read("dbs: []");
  CHECK(config.logging.level == log::Level::info);
  CHECK_FALSE(config.logging.to_stderr);
  CHECK(contains(refusal("logging:\n  level: loud\n"), "line 2: level must be"));
  CHECK(contains(refusal("logging: {type: xml}"), "type must be text or json"));
}

TEST_CASE("how to log is told before anything is logged") {
  const TempFolder folder;
  const auto file = folder.write("c.yml", "unknown: 1\nlogging: {type: json}\n");
  const LogCapture log;
  std::vector<log::Style> told;
  read_config(file, fake_environment(), {.on_logging = [&](const Logging& logging) {
                CHECK(log.text().empty());
                told.push_back(logging.style);
              }});
  CHECK(told == std::vector{log::Style::json});
  CHECK(log.has("unknown"));
}

TEST_CASE("variables are put in after the YAML is read") {
  const LogCapture log;
  const std::string text = R"(
access-key-id: $KEY
secret-access-key: ${SECRET}
dbs:
  # $COMMENT is not looked at
  - path: ${DIR}/app.db
    replicas:
      - url: s3://$BUCKET/x
        region: "$UNSET"
        retention: ${HOURS}h
)";
  const std::map<std::string, std::string> env = {{"KEY", "k"},
                                                  {"SECRET", "a: #b\"'$KEY"},
                                                  {"DIR", "/none"},
                                                  {"BUCKET", "bkt"},
                                                  {"HOURS", "7"}};
  const auto config = read(text, env);
  const auto& replica = config.databases.at(0).replicas.at(0);
  CHECK(config.databases[0].path == "/none/app.db");
  CHECK(replica.store.bucket == "bkt");
  CHECK(replica.store.access_key_id == "k");
  CHECK(replica.store.secret_access_key == "a: #b\"'$KEY");
  CHECK(replica.store.region.empty());
  CHECK(replica.retention == 7h);
  CHECK(log.has("variable=UNSET"));
  CHECK(log.has("line=9"));
  CHECK_FALSE(log.has("COMMENT"));
  CHECK_FALSE(log.has("#b"));

  // Not at all when told so.
  CHECK(read("access-key-id: $KEY\ndbs: [{path: /none/$A.db, replica: /b/x}]", env, false)
            .databases.at(0)
            .path == "/none/$A.db");
}

TEST_CASE("a dollar sign alone stays") {
  const auto config =
      read("secret-access-key: a$5$$-b$\ndbs: [{path: /none/a.db, replica: {url: s3://b/x}}]");
  CHECK(config.databases.at(0).replicas.at(0).store.secret_access_key == "a$5$$-b$");
  CHECK(contains(refusal("access-key-id: ${KEY\n"), "line 1: \"${\""));
  CHECK(contains(refusal("access-key-id: ${}\n"), "line 1: \"${\""));
  CHECK(contains(refusal("dbs:\n  - path: /none/${A/a.db\n"), "line 2: \"${\""));
  CHECK(contains(refusal("dbs:\n  - path: /none/a.db\n    replica:\n      region: ${R\n"),
                 "line 4: \"${\""));
}

TEST_CASE("an unset variable inside a place is an error") {
  CHECK(contains(refusal("dbs:\n  - path: $DIR/a.db\n    replica: /x/y\n"),
                 "line 2: the environment variable DIR is not set"));
  CHECK(
      contains(refusal("dbs:\n  - path: /none/a.db\n    replica: {url: 's3://$BKT/x'}\n"), "BKT"));
  CHECK(contains(refusal("dbs:\n  - path: /none/a.db\n    replica: {bucket: $BKT}\n"), "BKT"));
}

TEST_CASE("unknown keys are warned about with line and nearest key") {
  const LogCapture log;
  const auto config = read(R"(
wat: 1
dbs:
  - path: /none/a.db
    replicas:
      - url: s3://b/x
        retenton: 1h
        synch-interval: 1h
)");
  CHECK(config.databases.size() == 1);
  CHECK(log.has("key=wat"));
  CHECK(log.has("line=2"));
  CHECK(log.has("key=retenton in=\"a replica\""));
  CHECK(log.has("line=7"));
  CHECK(log.has("nearest=retention"));
  CHECK(log.has("nearest=sync-interval"));
}

TEST_CASE("aliases and merged lines are taken as if they stood there") {
  const LogCapture log;
  const auto config = read(R"(
x-common: &common
  <<: &more
    sync-interval: 5s
    snapshot-interval: 3h
  retention: 72h
  snapshot-interval: 2h
dbs:
  - path: /a.db
    replicas:
      - <<: *common
        path: /r/a
      - {<<: [*more, *common], name: other, path: /r/b, retention: 1h}
)");
  const auto& replicas = config.databases.at(0).replicas;
  CHECK(replicas.at(0).retention == 72h);
  CHECK(replicas.at(0).snapshot_interval == 2h);
  CHECK(replicas.at(0).sync_interval == 5s);
  CHECK(replicas.at(1).retention == 1h);
  CHECK(replicas.at(1).snapshot_interval == 3h);
  CHECK(contains(config.origins.at({"/a.db", "file"}).at("retention"), ":6"));
  CHECK_FALSE(log.has("key=<<"));
  CHECK(contains(refusal("dbs:\n- path: /a.db\n  <<: 5\n"), "line 3: behind <<"));
  CHECK(contains(refusal("dbs:\n- &me\n  <<: *me\n"), "a database has no path"));
  CHECK(contains(refusal("dbs:\n- path: /a.db\n  replica: {<<: {type: sftp}, host: h}\n"), "sftp"));
}

TEST_CASE("encryption that was asked for in any place is refused") {
  for (const char* text :
       {"age: {recipients: [r]}\ndbs: []\n", "dbs:\n- path: /a.db\n  age: {recipients: [r]}\n",
        "dbs:\n- path: /a.db\n  replica: {path: /r, age: {recipients: [r]}}\n"}) {
    CHECK(contains(refusal(text), "age encryption is not supported"));
  }
}

TEST_CASE("a database without a replica is warned about") {
  const LogCapture log;
  const auto config = read("dbs: [{path: /none/a.db}, {path: /none/b.db, replicas: []}]");
  CHECK(config.databases.size() == 2);
  CHECK(config.databases.at(0).replicas.empty());
  CHECK(log.has("without a replica"));
}

TEST_CASE("addr is warned about") {
  const LogCapture log;
  read("addr: ':9090'");
  CHECK(log.has("WARN"));
  CHECK(log.has("addr"));
}

TEST_CASE("0 is what it is for Litestream") {
  const auto database = read(
                            "dbs: [{path: /none/a, max-checkpoint-page-count: 0, replica: {path: "
                            "/x, snapshot-interval: "
                            "0s, retention-check-interval: 0s}}]")
                            .databases.at(0);
  CHECK(database.max_checkpoint_pages > 1'000'000'000);
  CHECK_FALSE(database.replicas.at(0).snapshot_interval);
  CHECK(database.replicas.at(0).retention_check_interval ==
        ReplicaSettings().retention_check_interval);
}

TEST_CASE("what may be a part of a secret is not named") {
  const LogCapture log;
  for (const char* key : {"secret-access-key", "session-token"}) {
    const auto with = [&](const std::string& value) {
      return std::string("dbs:\n- path: /none/a\n  replica:\n    bucket: b\n    ") + key + ": " +
             value;
    };
    const std::string said = refusal(with("some$SECRETxyz"));
    CHECK(contains(said, "line 5: a $ in this secret"));
    CHECK_FALSE(contains(said, "xyz"));
    CHECK_FALSE(log.has("xyz"));
    read(with("${UNSET_ONE}"));
    CHECK(log.has("UNSET_ONE"));
  }
}

TEST_CASE("a second document, which is not read, is warned about") {
  for (const char* more : {"---\ndbs: []\n", "--- [x]\n", "---\n&a word\n"}) {
    const LogCapture log;
    read(std::string("---\naddr: ''\n") + more);
    CAPTURE(more);
    CHECK(log.has("only the first document"));
    CHECK(log.has("line=3"));
  }
  for (const char* text :
       {"---\naddr: ''\n", "addr: ''\n---\n", "addr: ''\n...\n", "# none\n", ""}) {
    const LogCapture log;
    read(text);
    CAPTURE(text);
    CHECK_FALSE(log.has("only the first document"));
  }
}

TEST_CASE("what cannot be is refused with its line") {
  const auto with = [](const std::string& replica) {
    return "dbs:\n  - path: /none/a.db\n    replicas:\n      - " + replica + "\n";
  };
  CHECK(contains(refusal("dbs: [\n"), "broken YAML"));
  CHECK(contains(refusal("dbs: [\n"), "column"));
  CHECK(contains(refusal("just words"), "\"key: value\""));
  CHECK(contains(refusal("dbs: 5"), "dbs must be a list"));
  CHECK(contains(refusal("dbs: [5]"), "a database must consist of"));
  CHECK(contains(refusal("dbs:\n  - replicas: []\n"), "line 2: a database has no path"));
  CHECK(contains(refusal("dbs: [{path: /tmp, replica: /x/y}]"), "is a folder"));
  CHECK(contains(refusal("dbs: [{path: /none/a, replica: /x/y}, {path: /none/./a, replica: /x/z}]"),
                 "given twice"));
  CHECK(contains(refusal("dbs: [{path: /none/a, replica: /x/y}, {path: /none/b, replica: /x//y}]"),
                 "already one of /none/a"));
  CHECK(
      contains(refusal("dbs: [{path: /none/a, replica: 's3://b/x?endpoint=http://LocalHost:9000'},"
                       " {path: /none/b, replica: 's3://b/x?endpoint=http://127.0.0.1:9000'}]"),
               "already one of /none/a"));
  CHECK(contains(refusal("dbs:\n- {path: /none/a, outbox-dir: /o, replica: /x/y}\n"
                         "- {path: /none/b, outbox-dir: /./o, replica: /x/z}"),
                 "line 3: the outbox-dir of /none/b is already that of /none/a"));
  CHECK(contains(refusal("dbs: [{path: /none/a, outbox-dir: /none, replica: /x/y}]"),
                 "line 1: the outbox-dir of /none/a is the database's own folder"));
  CHECK(contains(refusal("dbs: [{path: /none/a, replica: /x/y, replicas: [/x/z]}]"), "keep one"));
  CHECK(contains(refusal("dbs: [{path: /none/a, replicas: [/x/y, /x/z]}]"), "two replicas named"));
  CHECK(contains(refusal("dbs: [{path: [a], replica: /x/y}]"), "single value"));
  CHECK(contains(refusal("dbs: [{path: /none/a, path: /none/b}]"), "path is given twice"));
  CHECK(contains(refusal("dbs: [{path: /none/a, outbox-max-size: big}]"), "outbox-max-size"));
  CHECK(contains(refusal("dbs: [{path: /none/a, shutdown-timeout: -1s}]"), "shutdown-timeout"));
  CHECK(contains(refusal("dbs: [{path: /none/a, sync: soon}]"), "line 1: sync must be off"));
  CHECK(contains(refusal("dbs: [{path: /none/a, sync-policy: panic}]"), "degrade or fail"));
  CHECK(contains(refusal("dbs: [{path: /none/a, sync-replicas: some}]"), "all or any"));
  CHECK(
      contains(refusal("dbs: [{path: /none/a, min-checkpoint-page-count: 0}]"), "number of pages"));
  for (const char* pages : {"-1", "1k", "99999999999", "''"}) {
    const std::string text =
        std::string("dbs: [{path: /none/a, max-checkpoint-page-count: ") + pages;
    CHECK(contains(refusal(text + "}]"), "number of pages"));
  }

  CHECK(contains(refusal(with("type: sftp\n        host: x")), "line 4: replicas of type sftp"));
  CHECK(contains(refusal(with("type: abs")), "not supported"));
  CHECK(contains(refusal(with("type: magic")), "not known"));
  CHECK(contains(refusal(with("url: gcs://b/x")), "line 4: replica URL"));
  CHECK(contains(refusal(with("url: s3://b/x\n        age: {recipients: [x]}")), "line 5: age"));
  CHECK(
      contains(refusal(with("url: s3://b/x\n        retention: 5")), "line 5: retention must be"));
  CHECK(contains(refusal(with("url: s3://b/x\n        path: y")), "both url and path"));
  CHECK(contains(refusal(with("url: s3://b/x\n        bucket: y")), "both url and bucket"));
  CHECK(contains(refusal(with("url: s3://b/x\n        type: file")), "take the type out"));
  CHECK(contains(refusal(with("type: s3")), "neither url nor bucket"));
  CHECK(contains(refusal(with("name: x")), "neither url nor path"));
  CHECK(contains(refusal(with("type: file\n        bucket: x")), "no meaning"));
  CHECK(contains(refusal(with("bucket: a/b")), "not a bucket's name"));
  CHECK(contains(refusal(with("path: /x/y\n        region: z")), "no meaning for a file replica"));
  CHECK(contains(refusal(with("path: s3://b/x")), "line 4: a replica's path cannot be a URL"));
  CHECK(contains(refusal(with("[a]")), "must consist of"));
}

TEST_CASE("secrets never appear in what is said") {
  const LogCapture log;
  for (const char* bad : {"retention: x", "url: s3://KEYID:hush@b/x", "endpoint: http://u:hush@h",
                          "skip-verify: maybe", "type: sftp", "secret-acces-key: hush"}) {
    CAPTURE(bad);
    try {
      read(std::string("secret-access-key: hush\ndbs:\n- path: /none/a.db\n  replicas:\n"
                       "  - secret-access-key: hush\n    bucket: b\n    ") +
           bad);
    } catch (const Error& error) {
      CHECK_FALSE(contains(error.what(), "hush"));
    }
  }
  CHECK_FALSE(log.has("hush"));
}

TEST_CASE("a file that cannot be read is named") {
  const TempFolder folder;
  const auto env = fake_environment();
  CHECK(contains(error_of([&] { read_config(folder.path() + "/no.yml", env); }),
                 "config file not found: " + folder.path()));
  CHECK(contains(error_of([&] { read_config(folder.path(), env); }), "Is a directory"));
}

TEST_CASE("an empty file is an empty configuration") {
  CHECK(read("").databases.empty());
  CHECK(read("# only words\ndbs:\n").databases.empty());
}

TEST_CASE("restoring a missing database is asked for, or follows from where to restore it from") {
  const TempFolder folder;
  const auto read = [&](const std::string& keys) {
    const auto file = folder.write("c.yml", "dbs: [{path: /srv/a.db, " + keys + "}]");
    return read_config(file, fake_environment({})).databases.at(0);
  };
  CHECK_FALSE(read("replica: /b/a").restore_if_missing);
  CHECK(read("replica: /b/a, restore-if-missing: true").restore_if_missing);
  CHECK(read("replica: /b/a, restore-from: 's3://b/other'").restore_if_missing);
  CHECK_FALSE(read("restore-if-missing: no, restore-from: /b/other").restore_if_missing);
  CHECK(read("restore-from: {url: 's3://b/other', access-key-id: one, secret-access-key: two}")
            .restore_from->store.secret_access_key == "two");
  CHECK(contains(error_of([&] { read("restore-if-missing: true"); }),
                 "restore-if-missing needs a replica or restore-from"));
  CHECK(contains(error_of([&] { read("restore-if-missing: perhaps, replica: /b/a"); }),
                 "restore-if-missing must be true or false"));
}

TEST_CASE("the synchronous mode is a database's") {
  const TempFolder folder;
  const std::string file =
      folder.write("c.yml",
                   "dbs:\n"
                   "- {path: /srv/a.db, sync: on, sync-policy: fail, sync-replicas: any, replica: "
                   "/b/a}\n"
                   "- {path: /srv/b.db, sync: 250, replica: /b/b}\n"
                   "- {path: /srv/c.db, replica: /b/c}\n");
  const auto databases = read_config(file, fake_environment({})).databases;
  CHECK(databases.at(0).sync == 5s);
  CHECK(databases.at(0).sync_terms.fail);
  CHECK(databases.at(0).sync_terms.any);
  CHECK(databases.at(1).sync == 250ms);
  CHECK_FALSE(databases.at(1).sync_terms.fail);
  CHECK_FALSE(databases.at(1).sync_terms.any);
  CHECK(databases.at(2).sync == 0s);
}

TEST_CASE("what a database says counts for its replicas, but their own wins") {
  const auto databases = read(R"(
dbs:
  - path: /srv/a.db
    sync-interval: 5s
    retention: 48h
    retention-check-interval: 2h
    snapshot-interval: 12h
    validation-interval: 6h
    exclusive: true
    replicas:
      - url: s3://b/a
      - bucket: c
        name: bucket
        sync-interval: 1s
        exclusive: false
      - path: /b/a
      - url: s3://b/a2?retention=1h&exclusive=false
        name: query
        validation-interval: 0
  - path: /srv/b.db
    sync-interval: 2s
    replica: /b/b
)")
                             .databases;
  const auto& replicas = databases.at(0).replicas;
  REQUIRE(replicas.size() == 4);
  for (const std::size_t i : {0, 2}) {
    CHECK(replicas[i].sync_interval == 5s);
    CHECK(replicas[i].retention == 48h);
    CHECK(replicas[i].retention_check_interval == 2h);
    CHECK(replicas[i].snapshot_interval == 12h);
    CHECK(replicas[i].validation_interval == 6h);
    CHECK(replicas[i].exclusive);
  }
  CHECK(replicas[1].sync_interval == 1s);
  CHECK(replicas[1].retention == 48h);
  CHECK_FALSE(replicas[1].exclusive);
  CHECK(replicas[3].retention == 1h);
  CHECK(replicas[3].sync_interval == 5s);
  CHECK_FALSE(replicas[3].exclusive);
  CHECK_FALSE(replicas[3].validation_interval);
  CHECK(databases.at(1).replicas.at(0).sync_interval == 2s);
  CHECK(contains(refusal("dbs:\n- path: /srv/a.db\n  sync-interval: soon\n  replica: /b/a\n"),
                 "line 3: sync-interval must be a duration"));
}

TEST_CASE("a replica is exclusive for itself, or for its database") {
  const TempFolder folder;
  const auto file =
      folder.write("c.yml",
                   "dbs:\n"
                   "- {path: /srv/a.db, replicas: [{url: /b/a, exclusive: true}, {url: "
                   "'s3://b/a'}]}\n"
                   "- {path: /srv/b.db, exclusive: true, replicas: [{url: /b/b}, {url: "
                   "'s3://b/b', exclusive: false}]}\n"
                   "- {path: /srv/c.db, replica: 'file:///b/c?exclusive=true'}\n");
  const auto databases = read_config(file, fake_environment({})).databases;
  CHECK(databases.at(0).replicas.at(0).exclusive);
  CHECK_FALSE(databases.at(0).replicas.at(1).exclusive);
  CHECK(databases.at(1).replicas.at(0).exclusive);
  CHECK_FALSE(databases.at(1).replicas.at(1).exclusive);
  CHECK(databases.at(2).replicas.at(0).exclusive);
}
