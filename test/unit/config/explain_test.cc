#include "config/explain.h"

#include "support.h"
#include "temp_folder.h"

using namespace sqlstream;
using namespace sqlstream::config;
using namespace sqlstream::config::testing;

namespace {

/// The settings of one configuration, by "database replica key": "value < origin".
std::map<std::string, std::string> explained(const std::string& text,
                                             std::map<std::string, std::string> env = {}) {
  const TempFolder folder;
  const auto environment = fake_environment(std::move(env));
  const auto config = read_config(folder.write("c.yml", text), environment);
  std::map<std::string, std::string> result;
  for (auto setting : explain(config, environment)) {
    if (setting.origin.starts_with(folder.path())) setting.origin.erase(0, folder.path().size());
    auto& line = result[setting.database + ' ' + setting.replica + ' ' + setting.key];
    CHECK(line.empty());
    line = setting.value + " < " + setting.origin;
  }
  return result;
}

}  // namespace

TEST_CASE("settings are explained with where they come from") {
  auto settings = explained(
      R"(logging:
  level: debug
dbs:
  - path: /none/a.db
    shutdown-timeout: 1m30s
    replicas:
      - url: s3://bkt.s3.us-west-004.backblazeb2.com/x
        sync-interval: ${SYNC}s
      - {name: aws, bucket: other, path: p}
      - {path: /backup, retention: 0}
)",
      {{"SYNC", "5"}, {"AWS_REGION", "eu-north-1"}, {"AWS_ENDPOINT_URL", "http://localhost:9000"}});
  CHECK(settings["  level"] == "debug < /c.yml:2");
  CHECK(settings["  type"] == "text < default");
  CHECK(settings["/none/a.db  shutdown-timeout"] == "1m30s < /c.yml:5");
  CHECK(settings["/none/a.db  min-checkpoint-page-count"] == "1000 < default");
  CHECK(settings["/none/a.db  outbox-dir"] == "beside the database < default");
  CHECK(settings["/none/a.db s3 bucket"] == "bkt < /c.yml:7");
  CHECK(settings["/none/a.db s3 path"] == "x < /c.yml:7");
  CHECK(settings["/none/a.db s3 region"] == "us-west-004 < /c.yml:7");
  CHECK(settings["/none/a.db s3 endpoint"] == "https://s3.us-west-004.backblazeb2.com < /c.yml:7");
  CHECK(settings["/none/a.db s3 sync-interval"] == "5s < /c.yml:8 $SYNC");
  CHECK(settings["/none/a.db s3 retention"] == "24h0m0s < default");
  CHECK(settings["/none/a.db aws bucket"] == "other < /c.yml:9");
  CHECK(settings["/none/a.db aws region"] == "eu-north-1 < environment variable AWS_REGION");
  CHECK(settings["/none/a.db aws endpoint"] ==
        "http://localhost:9000 < environment variable AWS_ENDPOINT_URL");
  CHECK(settings["/none/a.db aws force-path-style"] == "true < default");
  CHECK(settings["/none/a.db file path"] == "/backup < /c.yml:10");
  CHECK(settings["/none/a.db file retention"] == "forever < /c.yml:10");
  CHECK(settings.count("/none/a.db file region") == 0);
}

TEST_CASE("what a replica has from its database is named so") {
  auto settings = explained(R"(dbs:
  - path: /none/a.db
    sync-interval: 5s
    replicas:
      - url: s3://bkt/x
      - {url: "s3://bkt/y?sync-interval=2s", name: query}
      - {path: /backup, sync-interval: 1s}
)");
  CHECK(settings["/none/a.db s3 sync-interval"] == "5s < /c.yml:3");
  CHECK(settings["/none/a.db query sync-interval"] == "2s < /c.yml:6");
  CHECK(settings["/none/a.db file sync-interval"] == "1s < /c.yml:7");
}

TEST_CASE("what an endpoint tells is named so") {
  auto settings = explained(
      "dbs: [{path: /none/a.db, replica: {bucket: b, endpoint: fly.storage.tigris.dev}}]");
  CHECK(settings["/none/a.db s3 region"] == "auto < endpoint");
  CHECK(settings["/none/a.db s3 force-path-style"] == "false < endpoint");
}

TEST_CASE("secrets are masked wherever they come from") {
  const std::string dbs = "dbs:\n- path: /none/a.db\n  replicas:\n  - bucket: b\n";
  auto settings = explained(
      "access-key-id: AKID-hush\nsecret-access-key: $S\n" + dbs + "    session-token: hush-token\n",
      {{"S", "hush"}});
  CHECK(settings["/none/a.db s3 access-key-id"] == "*** < /c.yml:1");
  CHECK(settings["/none/a.db s3 secret-access-key"] == "*** < /c.yml:2 $S");
  CHECK(settings["/none/a.db s3 session-token"] == "*** < /c.yml:7");
  for (const auto& [key, line] : settings) CHECK_FALSE(contains(line, "hush"));

  std::map<std::string, std::string> env = {{"LITESTREAM_ACCESS_KEY_ID", "hush"},
                                            {"AWS_SECRET_ACCESS_KEY", "hush"}};
  CHECK(contains(explained(dbs, env)["/none/a.db s3 secret-access-key"], "AWS's tools"));
  env["AWS_ACCESS_KEY_ID"] = "hush";
  CHECK(explained(dbs, env)["/none/a.db s3 access-key-id"] ==
        "*** < environment variable AWS_ACCESS_KEY_ID");
  env["LITESTREAM_SECRET_ACCESS_KEY"] = "hush";
  settings = explained(dbs, env);
  CHECK(settings["/none/a.db s3 access-key-id"] ==
        "*** < environment variable LITESTREAM_ACCESS_KEY_ID");
  CHECK(settings["/none/a.db s3 secret-access-key"] ==
        "*** < environment variable LITESTREAM_SECRET_ACCESS_KEY");
  CHECK(contains(explained("access-key-id: hush\n" + dbs, env)["/none/a.db s3 secret-access-key"],
                 "missing"));
  for (const auto& [key, line] : settings) CHECK_FALSE(contains(line, "hush"));
  CHECK(contains(explained(dbs)["/none/a.db s3 access-key-id"], "AWS's tools"));
}
