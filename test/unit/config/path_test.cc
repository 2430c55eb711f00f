#include "config/path.h"

#include <filesystem>
#include <fstream>
#include <unistd.h>

#include "support.h"
#include "temp_folder.h"

using namespace sqlstream::config;
using namespace sqlstream::config::testing;
namespace fs = std::filesystem;

TEST_CASE("a canonical path is absolute, with links resolved") {
  const TempFolder folder;
  const std::string& root = folder.path();
  fs::create_directories(root + "/real/deep");
  std::ofstream(root + "/real/app.db") << "x";
  fs::create_directory_symlink(root + "/real", root + "/link");
  fs::create_symlink("app.db", root + "/real/alias.db");
  fs::create_symlink("../alias.db", root + "/real/deep/alias2.db");
  fs::create_symlink("future.db", root + "/real/dangling.db");
  fs::create_symlink("loop.db", root + "/real/loop.db");

  CHECK(canonical_path(root + "/real/app.db") == root + "/real/app.db");
  CHECK(canonical_path(root + "/link/app.db") == root + "/real/app.db");
  CHECK(canonical_path(root + "/link/alias.db") == root + "/real/app.db");
  CHECK(canonical_path(root + "/real/deep/alias2.db") == root + "/real/app.db");
  CHECK(canonical_path(root + "/real/./deep/../app.db") == root + "/real/app.db");
  // Not there yet, or behind a link to what is not there yet.
  CHECK(canonical_path(root + "/link/new.db") == root + "/real/new.db");
  CHECK(canonical_path(root + "/link/dangling.db") == root + "/real/future.db");
  CHECK(canonical_path(root + "/none/new.db") == root + "/none/new.db");
  CHECK(contains(error_of([&] { canonical_path(root + "/real/loop.db"); }), "cannot"));
  CHECK(contains(error_of([] { canonical_path(""); }), "empty"));
  CHECK(database_path(root + "/link/app.db") == root + "/real/app.db");
  CHECK(database_path(root + "/real/./loop.db") == root + "/real/loop.db");
  CHECK(contains(error_of([] { database_path(""); }), "empty"));
}

TEST_CASE("a relative path is taken from the working directory") {
  CHECK(canonical_path("some.db") == (fs::canonical(fs::current_path()) / "some.db").string());
}

TEST_CASE("~ is the home folder") {
  const auto env = fake_environment({{"HOME", "/home/me"}});
  CHECK(expand_home("~/a", env) == "/home/me/a");
  CHECK(expand_home("~", env) == "/home/me");
  CHECK(expand_home("~other/a", env) == "~other/a");
  CHECK(expand_home("/x/~", env) == "/x/~");
  CHECK(contains(error_of([] { expand_home("~/a", fake_environment()); }), "HOME is not set"));
}
