#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <atomic>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <random>
#include <sys/mount.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include <doctest/doctest.h>

#include "store/file_store.h"
#include "test/unit/store/run.h"
#include "test/unit/store/server.h"

using namespace sqlstream;
using sqlstream::test::run;
using sqlstream::test::store_error;
using sqlstream::test::TempFolder;
namespace fs = std::filesystem;

namespace {

struct Fixture {
  TempFolder folder;
  asio::io_context context;
  fs::path root = folder.path / "a" / "replica";
  StoreSettings settings{.path = root.string()};
  std::unique_ptr<Store> store = make_store(settings, context.get_executor());

  void put(const std::string& key, std::string_view text, PutOptions options = {}) {
    const ByteView view = as_bytes(text);
    run(context, store->put(key, Bytes(view.begin(), view.end()), options));
  }
  std::string get(const std::string& key, std::optional<ByteRange> range = {}) {
    return std::string(as_text(run(context, store->get(key, range))));
  }
  std::vector<std::string> keys(ListQuery query) {
    std::vector<std::string> names;
    for (const ObjectInfo& object : run(context, store->list(std::move(query))).objects)
      names.push_back(object.key);
    return names;
  }
};

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE_FIXTURE(Fixture, "an object is what was put, with its time") {
  const Time time{std::chrono::nanoseconds(1'700'000'000'123'456'789)};
  put("generations/x/wal/1", "hello", {.modified = time});
  CHECK(get("generations/x/wal/1") == "hello");
  CHECK(get("generations/x/wal/1", ByteRange{1, 3}) == "ell");
  CHECK(get("generations/x/wal/1", ByteRange{3, 100}) == "lo");
  CHECK(get("generations/x/wal/1", ByteRange{100, 1}).empty());
  put("generations/x/wal/1", "");
  CHECK(get("generations/x/wal/1").empty());
  put("generations/x/wal/1", "other", {.modified = time});
  const Listing listing = run(context, store->list({}));
  REQUIRE(listing.objects.size() == 1);
  CHECK(listing.objects[0].key == "generations/x/wal/1");
  CHECK(listing.objects[0].size == 5);
  CHECK(listing.objects[0].modified == time);
  CHECK(listing.objects[0].stored == time);
  // The writer's clock may be ahead: the file system has its own.
  const Time ahead = now() + std::chrono::hours(72);
  put("generations/x/wal/1", "later", {.modified = ahead});
  const ObjectInfo later = run(context, store->list({})).objects.at(0);
  CHECK(later.modified == ahead);
  CHECK(later.stored < ahead - std::chrono::hours(71));
}

TEST_CASE_FIXTURE(Fixture, "if_absent refuses what is there and keeps it") {
  put("k", "first", {.if_absent = true});
  CHECK(store_error(context, store->put("k", Bytes{1}, {.if_absent = true})).kind() ==
        StoreError::Kind::exists);
  CHECK(get("k") == "first");
  CHECK(std::distance(fs::directory_iterator(root), {}) == 1);
}

TEST_CASE_FIXTURE(Fixture, "missing things") {
  CHECK(run(context, store->list({.prefix = "generations/"})).objects.empty());
  CHECK(store_error(context, store->get("k", {})).kind() == StoreError::Kind::no_bucket);
  put("k", "x");
  const StoreError error = store_error(context, store->get("k2", {}));
  CHECK(error.kind() == StoreError::Kind::not_found);
  CHECK(std::string(error.what()).find(root.string() + "/k2") != std::string::npos);
  CHECK(store_error(context, store->get("k/below", {})).kind() == StoreError::Kind::not_found);
  run(context, store->remove({"k2", "k/below", "no/such/folder"}));
  CHECK(get("k") == "x");
}

TEST_CASE_FIXTURE(Fixture, "an upload is visible when finished and leaves nothing otherwise") {
  {
    auto upload = run(context, store->start_upload("s/1", 0, {}));
    run(context, upload->write(Bytes(100'000, 1)));
    CHECK(keys({}).empty());
    run(context, upload->write(Bytes(50'000, 2)));
    run(context, upload->finish());
  }
  const std::string body = get("s/1");
  CHECK(body.size() == 150'000);
  CHECK(body[99'999] == 1);
  CHECK(body[100'000] == 2);
  {
    auto upload = run(context, store->start_upload("s/2", 0, {}));
    run(context, upload->write(Bytes(10, 1)));
  }
  CHECK(std::distance(fs::directory_iterator(root / "s"), {}) == 1);
}

TEST_CASE_FIXTURE(Fixture,
                  "a dead process's temporary file is not listed, and cleared when stale") {
  put("s/1", "x");
  const fs::path left = root / "s" / ".tmp-1-2-3";
  std::ofstream(left) << "half";
  CHECK(keys({}) == Names{"s/1"});
  run(context, store->abort_stale_uploads("s/", std::chrono::hours(1)));
  CHECK(fs::exists(left));
  fs::last_write_time(left, fs::file_time_type::clock::now() - std::chrono::hours(2));
  run(context, store->abort_stale_uploads("", std::chrono::hours(1)));
  CHECK_FALSE(fs::exists(left));
  CHECK(keys({}) == Names{"s/1"});
}

TEST_CASE_FIXTURE(Fixture, "listings come by key, as from an object store") {
  for (const char* key : {"b", "a/2", "a/1", "a-b", "a/1.x/z", "a/10", "c/d/e", "c/d/f"})
    put(key, "x");
  const Names all{"a-b", "a/1", "a/1.x/z", "a/10", "a/2", "b", "c/d/e", "c/d/f"};
  CHECK(keys({}) == all);
  CHECK(keys({.prefix = "a/1"}) == Names{"a/1", "a/1.x/z", "a/10"});
  CHECK(keys({.prefix = "a/", .start_after = "a/1.x/a"}) == Names{"a/1.x/z", "a/10", "a/2"});
  CHECK(keys({.start_after = "a/10", .limit = 2}) == Names{"a/2", "b"});
  CHECK(keys({.prefix = "nothing/here/"}).empty());

  Listing listing = run(context, store->list({.folders = true}));
  CHECK(listing.folders == Names{"a/", "c/"});
  CHECK(listing.objects.size() == 2);
  listing = run(context, store->list({.prefix = "a/", .folders = true}));
  CHECK(listing.folders == Names{"a/1.x/"});
  CHECK(listing.objects.size() == 3);
  listing = run(context, store->list({.start_after = "c/d/e", .folders = true}));
  CHECK(listing.folders == Names{"c/"});
  listing = run(context, store->list({.start_after = "c/d/f", .folders = true}));
  CHECK(listing.folders.empty());
}

TEST_CASE_FIXTURE(Fixture, "what is put while a folder is listed leaves no gap") {
  constexpr int kObjects = 60'000;
  put("wal/00000000", "");
  std::atomic<bool> ended{false};
  std::thread writer([&] {
    for (int i = 1; i < kObjects; ++i) {
      char name[16];
      std::snprintf(name, sizeof name, "%08d", i);
      const int fd = ::open((root / "wal" / name).c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
      if (fd < 0) break;
      ::close(fd);
    }
    ended = true;
  });
  std::size_t last = 0;
  for (bool again = true; again;) {
    again = !ended;
    const Names found = keys({.prefix = "wal/"});
    CHECK(found.size() >= last);
    last = found.size();
    REQUIRE(std::stoull(found.back().substr(4)) == last - 1);
  }
  writer.join();
  CHECK(last == kObjects);
}

TEST_CASE_FIXTURE(Fixture, "a file in the folder's place is an error, not an empty store") {
  fs::create_directory(root.parent_path());
  std::ofstream(root) << "x";
  CHECK(std::string(store_error(context, store->list({.prefix = "generations/"})).what())
            .find("Not a directory") != std::string::npos);
}

TEST_CASE_FIXTURE(Fixture, "listings agree with a sorted set of keys") {
  const auto seed = std::random_device{}();
  CAPTURE(seed);
  MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  const auto letter = [&] { return std::string(1, "ab-0"[random() % 4]); };
  std::set<std::string> model;
  for (int i = 0; i < 60; ++i) {
    std::string key = letter();
    for (unsigned depth = random() % 3; depth > 0; --depth) key += "/d" + letter();
    key += "/f" + letter() + letter();
    put(key, "x");
    model.insert(key);
  }
  for (int i = 0; i < 200; ++i) {
    auto random_cut = [&] {
      const std::string& key = *std::next(model.begin(), random() % model.size());
      return key.substr(0, random() % (key.size() + 1));
    };
    ListQuery query{.prefix = random_cut(), .start_after = random() % 2 ? random_cut() : ""};
    query.folders = random() % 2;
    query.limit = random() % 2 ? 1 + random() % 9 : 0;
    while (query.prefix.ends_with("//")) query.prefix.pop_back();
    Names objects;
    Names folders;
    for (const std::string& key : model) {
      if (query.limit && objects.size() + folders.size() == query.limit) break;
      if (!key.starts_with(query.prefix) || key <= query.start_after) continue;
      const auto slash = key.find('/', query.prefix.size());
      if (!query.folders || slash == std::string::npos) {
        objects.push_back(key);
      } else if (folders.empty() || folders.back() != key.substr(0, slash + 1)) {
        folders.push_back(key.substr(0, slash + 1));
      }
    }
    CAPTURE(query.prefix);
    CAPTURE(query.start_after);
    CHECK(keys(query) == objects);
    CHECK(run(context, store->list(query)).folders == folders);
  }
}

TEST_CASE_FIXTURE(Fixture, "emptied folders go, the root stays") {
  put("g/x/wal/1", "x");
  put("g/x/wal/2", "x");
  run(context, store->remove({"g/x/wal/1"}));
  CHECK(fs::exists(root / "g/x/wal"));
  run(context, store->remove({"g/x/wal/2"}));
  CHECK_FALSE(fs::exists(root / "g"));
  CHECK(fs::exists(root));
  put("g/x/wal/1", "again");
  CHECK(get("g/x/wal/1") == "again");
}

TEST_CASE_FIXTURE(Fixture, "a folder removed behind the store's back is made again") {
  put("g/x/wal/1", "x");
  fs::remove_all(root);
  put("g/x/wal/2", "x");
  CHECK(keys({}) == Names{"g/x/wal/2"});
}

TEST_CASE_FIXTURE(Fixture, "names that are no keys are refused") {
  for (const char* key : {"", "/", "../x", "a/../../x", "a//b", "a/", ".tmp-x", "./a"}) {
    CAPTURE(key);
    CHECK(store_error(context, store->put(key, {}, {})).kind() == StoreError::Kind::rejected);
    CHECK(store_error(context, store->get(key, {})).kind() == StoreError::Kind::rejected);
    CHECK(store_error(context, store->remove({key})).kind() == StoreError::Kind::rejected);
  }
  CHECK_THROWS_AS(make_store({.path = "relative"}, context.get_executor()), Error);
  CHECK_THROWS_AS(make_store({.path = "/"}, context.get_executor()), Error);
}

TEST_CASE_FIXTURE(Fixture, "links and pipes are no objects, and lead nowhere") {
  const fs::path outside = folder.path / "outside";
  fs::create_directories(outside / "folder");
  std::ofstream(outside / "folder" / "secret") << "secret";
  put("folder/own", "own");
  fs::create_symlink(outside / "folder" / "secret", root / "folder" / "link");
  fs::create_directory_symlink(outside / "folder", root / "linked");
  fs::create_directory_symlink(".", root / "circle");
  REQUIRE(::mkfifo((root / "pipe").c_str(), 0600) == 0);
  CHECK(keys({}) == Names{"folder/own"});
  const StoreError listed = store_error(context, store->list({.prefix = "linked/"}));
  CHECK(std::string(listed.what()).find("a part of it is a symbolic link") != std::string::npos);
  const StoreError refused = store_error(context, store->put("linked/new/one", {}, {}));
  CHECK(std::string(refused.what()).find("a part of it is a symbolic link") != std::string::npos);
  CHECK_FALSE(fs::exists(outside / "folder" / "new"));
  for (const char* key : {"folder/link", "linked/secret", "circle/folder/own", "pipe"}) {
    CAPTURE(key);
    CHECK(store_error(context, store->get(key, {})).kind() == StoreError::Kind::not_found);
  }
  // The folder of the replica itself may be one: whoever reads it named it.
  fs::create_directory_symlink(root, folder.path / "door");
  settings.path = folder.path / "door";
  store = make_store(settings, context.get_executor());
  CHECK(get("folder/own") == "own");
  CHECK(keys({}) == Names{"folder/own"});
}

TEST_CASE_FIXTURE(Fixture, "modes follow the root folder's") {
  const auto mode = [](const fs::path& path) {
    struct stat info {};
    REQUIRE(::stat(path.c_str(), &info) == 0);
    return info.st_mode & 07777;
  };
  put("s/1", "x");
  CHECK(mode(root) == 0700);
  CHECK(mode(root / "s") == 0700);
  CHECK(mode(root / "s/1") == 0600);
  ::chmod(root.c_str(), 0755);
  put("t/1", "x");
  CHECK(mode(root / "t") == 0755);
  CHECK(mode(root / "t/1") == 0644);
}

TEST_CASE_FIXTURE(Fixture, "failures name the path") {
  std::ofstream(folder.path / "a") << "a file where a folder should be";
  const StoreError error = store_error(context, store->put("k", {}, {}));
  CHECK(error.kind() == StoreError::Kind::rejected);
  CHECK(std::string(error.what()).find((folder.path / "a").string()) != std::string::npos);
}

TEST_CASE_FIXTURE(Fixture, "an unwritable folder is denied") {
  ::chmod(folder.path.c_str(), 0555);
  const bool root_user = ::geteuid() == 0;
  if (root_user) REQUIRE(::seteuid(65534) == 0);
  const StoreError error = store_error(context, store->put("k", {}, {}));
  if (root_user) REQUIRE(::seteuid(0) == 0);
  CHECK(error.kind() == StoreError::Kind::denied);
  CHECK(std::string(error.what()).find((folder.path / "a").string()) != std::string::npos);
}

TEST_CASE("a full file system is no_space") {
  TempFolder folder;
  if (::mount("tmpfs", folder.path.c_str(), "tmpfs", 0, "size=64k") != 0) {
    MESSAGE("not run: mounting a small file system needs root");
    return;
  }
  asio::io_context context;
  {
    FileStore store(StoreSettings{.path = (folder.path / "r").string()}, context.get_executor());
    const StoreError error = store_error(context, store.put("k", Bytes(1 << 20), {}));
    CHECK(error.kind() == StoreError::Kind::no_space);
    CHECK(std::string(error.what()).find(folder.path.string()) != std::string::npos);
    CHECK(run(context, store.list({})).objects.empty());
  }
  ::umount(folder.path.c_str());
}

TEST_CASE_FIXTURE(Fixture, "many at once") {
  for (int i = 0; i < 50; ++i)
    asio::co_spawn(context, store->put("k/" + std::to_string(100 + i), Bytes(1000, 7), {}),
                   [](std::exception_ptr error) { CHECK_FALSE(error); });
  context.run();
  CHECK(keys({}).size() == 50);
}
