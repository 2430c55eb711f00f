#include "base/folder.h"

#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <string>
#include <sys/resource.h>
#include <system_error>
#include <unistd.h>

#include <doctest/doctest.h>

using sqlstream::names_in;

TEST_CASE("the names in a folder; none where there is no folder") {
  std::string folder = "/tmp/sqlstream-names-XXXXXX";
  REQUIRE(::mkdtemp(folder.data()) != nullptr);
  CHECK(names_in(folder).empty());
  for (const char* name : {"/a", "/.b"}) {
    ::close(::open((folder + name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  }
  auto names = names_in(folder);
  std::sort(names.begin(), names.end());
  CHECK(names == std::vector<std::string>{".b", "a"});
  for (const std::string& name : names) ::unlink((folder + '/' + name).c_str());
  ::rmdir(folder.c_str());
  CHECK(names_in(folder).empty());
}

TEST_CASE("a folder that cannot be listed is not taken for an empty one") {
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlimit none{0, limit.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  CHECK_THROWS_AS(names_in("/"), std::system_error);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
}
