#include "base/folder.h"

#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <string>
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

// Not for want of descriptors: then UBSan has none for itself, and takes objects for damaged ones.
TEST_CASE("a folder that cannot be listed is not taken for an empty one") {
  CHECK_THROWS_AS(names_in('/' + std::string(5000, 'a')), std::system_error);
}
