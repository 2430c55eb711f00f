#include <filesystem>

#include "support.h"
#include "temp_folder.h"

using namespace sqlstream;
using namespace sqlstream::config;
using namespace sqlstream::config::testing;

TEST_CASE("a configuration is found through the environment") {
  const TempFolder folder;
  const auto one = folder.write("one.yml", "dbs: [{path: /none/one.db, replica: /b/one}]");
  const auto two = folder.write("two.yml", "dbs: [{path: /none/two.db, replica: /b/two}]");
  auto config =
      find_config(fake_environment({{"SQLSTREAM_CONFIG", one}, {"LITESTREAM_CONFIG", two}}));
  CHECK(config.file == one);
  CHECK(config.databases.at(0).path == "/none/one.db");
  config = find_config(fake_environment({{"LITESTREAM_CONFIG", two}}));
  CHECK(config.file == two);
  CHECK(
      contains(error_of([&] {
                 find_config(fake_environment({{"SQLSTREAM_CONFIG", folder.path() + "/gone.yml"}}));
               }),
               "gone.yml"));
}

TEST_CASE("the URI parameter comes first, then the configuration, then the environment") {
  const TempFolder folder;
  std::filesystem::create_directory(folder.path() + "/real");
  std::filesystem::create_directory_symlink(folder.path() + "/real", folder.path() + "/link");
  // The file names the database through a link, the application opens it by its canonical path.
  const auto file =
      folder.write("c.yml", "dbs: [{path: " + folder.path() +
                                "/link/app.db, shutdown-timeout: 9s, replica: /b/c}, {path: "
                                "/other/none.db}]");
  const auto env = fake_environment(
      {{"SQLSTREAM_CONFIG", file}, {"SQLSTREAM_REPLICA_URL", "file:///env/{path}"}});
  const std::string path = folder.path() + "/real/app.db";

  auto settings = settings_for(path, "file:///uri/{name}", env);
  REQUIRE(settings);
  CHECK(settings->path == path);
  REQUIRE(settings->replicas.size() == 1);
  CHECK(settings->replicas[0].store.path == "/uri/app.db");

  settings = settings_for(path, "", env);
  REQUIRE(settings);
  CHECK(settings->path == path);
  CHECK(settings->replicas.at(0).store.path == "/b/c");
  CHECK(settings->shutdown_timeout == std::chrono::seconds(9));

  settings = settings_for("/other/my.db", "", env);
  REQUIRE(settings);
  CHECK(settings->replicas.at(0).store.path == "/env/other/my.db");

  settings = settings_for("/other/none.db", "", env);
  REQUIRE(settings);
  CHECK(settings->replicas.at(0).store.path == "/env/other/none.db");

  const auto bare = fake_environment({{"SQLSTREAM_CONFIG", file}});
  CHECK_FALSE(settings_for("/other/my.db", "", bare));
  CHECK(contains(error_of([&] { settings_for(path, "nonsense", bare); }), "nonsense"));
}

TEST_CASE("a replica that is named elsewhere leaves a database's other settings as they are") {
  const TempFolder folder;
  const auto file = folder.write("c.yml",
                                 "dbs:\n"
                                 "- {path: /srv/a.db, outbox-dir: /out, replica: /b/a}\n"
                                 "- {path: /srv/b.db, outbox-max-size: 1MiB}\n");
  const auto env = fake_environment(
      {{"SQLSTREAM_CONFIG", file}, {"SQLSTREAM_REPLICA_URL", "file:///env/{name}"}});
  auto settings = settings_for("/srv/a.db", "file:///uri/a", env);
  REQUIRE(settings);
  CHECK(settings->outbox_dir == "/out");
  REQUIRE(settings->replicas.size() == 1);
  CHECK(settings->replicas[0].store.path == "/uri/a");

  settings = settings_for("/srv/b.db", "", env);
  REQUIRE(settings);
  CHECK(settings->outbox_max_size == 1 << 20);
  CHECK(settings->replicas.at(0).store.path == "/env/b.db");
}

TEST_CASE("a named file that cannot be used is told from others") {
  const auto env = fake_environment({{"LITESTREAM_CONFIG", "/none/gone.yml"}});
  CHECK_THROWS_AS(settings_for("/srv/a.db", "", env), NamedConfigError);
  CHECK_THROWS_AS(settings_for("/srv/a.db", "file:///uri/a", env), NamedConfigError);
}

TEST_CASE("a database that is only to be restored has no replica of its own") {
  const TempFolder folder;
  const auto file =
      folder.write("c.yml", "dbs: [{path: /srv/dev.db, restore-from: /b/production}]");
  const auto bare = fake_environment({{"SQLSTREAM_CONFIG", file}});
  auto settings = settings_for("/srv/dev.db", "", bare);
  REQUIRE(settings);
  CHECK(settings->replicas.empty());
  CHECK(settings->restore_if_missing);
  CHECK(settings->restore_from->store.path == "/b/production");

  settings = settings_for("/srv/dev.db", "",
                          fake_environment({{"SQLSTREAM_CONFIG", file},
                                            {"SQLSTREAM_REPLICA_URL", "file:///env/{name}"}}));
  REQUIRE(settings);
  CHECK(settings->replicas.at(0).store.path == "/env/dev.db");
  CHECK(settings->restore_from->store.path == "/b/production");
}

TEST_CASE("the process environment is read when asked") {
  const auto env = process_environment();
  CHECK(env("PATH").has_value());
  CHECK_FALSE(env("SQLSTREAM_SURELY_NOT_SET").has_value());
}
