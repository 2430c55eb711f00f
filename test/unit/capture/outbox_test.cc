// The outbox's directory: what is shared between processes, and the locks that go with them.

#include "capture/outbox.h"

#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <optional>
#include <poll.h>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <doctest/doctest.h>

#include "base/error.h"
#include "base/fork.h"
#include "support.h"

using namespace sqlstream;
using namespace sqlstream::capture;
using namespace sqlstream::testing;
using namespace std::chrono_literals;

namespace fs = std::filesystem;

namespace {

struct Place {
  TempFolder folder;
  std::string database = folder.file("app.db");

  Place() {
    call_in_child([] {});
    std::ofstream(database) << "x";
    ::chmod(database.c_str(), 0640);
  }
  OutboxPlace place() const { return OutboxPlace::of(database, ""); }
};

LogFile::ImageSource one_image(std::uint32_t page_size) {
  return [page_size](std::size_t first, std::size_t count, std::span<std::uint8_t> out) {
    for (std::size_t i = 0; i < count; ++i) {
      const Bytes image = image_of(static_cast<std::uint32_t>(first + i + 1), page_size);
      std::copy(image.begin(), image.end(),
                out.begin() + static_cast<std::ptrdiff_t>(i * page_size));
    }
    return true;
  };
}

std::vector<std::uint32_t> pages_to(std::uint32_t last) {
  std::vector<std::uint32_t> pages(last);
  for (std::uint32_t i = 0; i < last; ++i) pages[i] = i + 1;
  return pages;
}

Record record_of(std::uint32_t frame, std::uint32_t page_size = 512) {
  Record record;
  record.page_size = page_size;
  record.database_size = frame;
  record.source.frame = frame;
  return record;
}

Generation begin(Outbox& outbox) {
  const auto lock = outbox.lock(0s);
  REQUIRE(lock);
  outbox.refresh();
  const Generation generation = Generation::random();
  Record record = record_of(1);
  REQUIRE(outbox.begin_generation(generation, {1, 2, 3, 4, 5}, record, {1}, one_image(512)));
  return generation;
}

bool append(Outbox& outbox, std::uint32_t pages, std::uint32_t page_size = 512) {
  const auto lock = outbox.lock(0s);
  REQUIRE(lock);
  outbox.refresh();
  Record record = record_of(pages, page_size);
  return outbox.append_batch(record, pages_to(pages), one_image(page_size));
}

void refresh(Outbox& outbox) {
  const auto lock = outbox.lock(0s);
  REQUIRE(lock);
  outbox.refresh();
}

short poll_errors(int fd, int limit_ms) {
  pollfd wait{fd, 0, 0};
  ::poll(&wait, 1, limit_ms);
  return wait.revents;
}

}  // namespace

TEST_CASE("mode and place follow the database file's") {
  const Place at;
  const OutboxPlace place = at.place();
  CHECK(place.directory == at.folder.file(".app.db-sqlstream"));
  CHECK(place.file_mode == 0640);
  CHECK(OutboxPlace::of(at.database, "/elsewhere").directory == "/elsewhere");
  CHECK_THROWS_AS(OutboxPlace::of(at.database + "x", ""), Error);
  // Of a deleted database, too: never a name that begins in the root folder.
  CHECK(OutboxPlace::directory_of(at.database + "x", "") == at.folder.file(".app.dbx-sqlstream"));
  CHECK(OutboxPlace::directory_of(at.database + "x", "/elsewhere") == "/elsewhere");

  const Outbox outbox(place);
  struct stat st {};
  REQUIRE(::stat(place.directory.c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0750);
  for (const char* name : {"/lock", "/control", "/wake"}) {
    REQUIRE(::stat((place.directory + name).c_str(), &st) == 0);
    CHECK((st.st_mode & 0777) == 0640);
  }
}

TEST_CASE("what root makes belongs to the database's owner, and nothing else does") {
  if (::geteuid() != 0) return;
  constexpr uid_t kOwner = 65534;
  const Place at;
  const mode_t before = ::umask(0);
  REQUIRE(::chown(at.database.c_str(), kOwner, kOwner) == 0);
  const OutboxPlace place = at.place();
  struct stat st {};
  const auto owner = [&](const std::string& path) {
    REQUIRE(::lstat(path.c_str(), &st) == 0);
    return st.st_uid;
  };
  {
    Outbox outbox(place);
    refresh(outbox);
    begin(outbox);
  }
  ::umask(before);
  CHECK(owner(place.directory) == kOwner);
  for (const auto& entry : std::filesystem::directory_iterator(place.directory)) {
    CAPTURE(entry.path());
    CHECK(owner(entry.path()) == kOwner);
    CHECK((st.st_mode & 0777) == 0640);
  }
  // A file that the owner put there before is his or not as it was.
  const std::string theirs = at.folder.file("root's");
  std::ofstream(theirs) << "x";
  std::filesystem::remove_all(place.directory);
  std::filesystem::create_directory(place.directory);
  std::filesystem::create_hard_link(theirs, place.directory + "/control");
  const Outbox again(place);
  CHECK(owner(theirs) == 0);
}

TEST_CASE("an outbox that cannot be made is a clear error") {
  const Place at;
  OutboxPlace place = at.place();
  place.directory = at.database + "/inside-a-file";
  CHECK_THROWS_WITH_AS(Outbox{place}, doctest::Contains("cannot create the outbox directory"),
                       Error);
  place.directory = at.database;  // a file in its place
  CHECK_THROWS_AS(Outbox{place}, Error);
}

TEST_CASE("a new outbox is empty, and what is appended is seen by others") {
  const Place at;
  Outbox outbox(at.place());
  Outbox other(at.place());
  refresh(outbox);
  CHECK_FALSE(outbox.tail());
  CHECK_FALSE(outbox.generation_alive());

  const Generation generation = begin(outbox);
  CHECK(outbox.generation_alive());
  REQUIRE(append(outbox, 2));
  refresh(other);
  REQUIRE(other.tail());
  CHECK(other.tail()->generation == generation);
  CHECK(other.tail()->generation_first == 1);
  CHECK(other.tail()->device == 1);
  CHECK(other.tail()->inode == 2);
  CHECK(other.tail()->last.sequence == 2);
  CHECK(other.tail()->last.chain == outbox.tail()->last.chain);

  // In turns.
  REQUIRE(append(other, 3));
  REQUIRE(append(outbox, 4));
  {
    const auto lock = other.lock(0s);
    other.refresh();
    Record mark = record_of(0);
    mark.kind = RecordKind::clean;
    other.append_mark(mark);
  }
  refresh(outbox);
  CHECK(outbox.tail()->last.sequence == 4);
  CHECK(outbox.tail()->last.kind == RecordKind::clean);
  CHECK(outbox.tail()->last.database_size == 4);

  SUBCASE("the mark that a generation ended is seen without a lock") {
    const auto held = outbox.lock(0s);
    REQUIRE(held);
    other.end_generation(generation);
    CHECK(outbox.ended(generation));
    CHECK_FALSE(outbox.generation_alive());
  }
  SUBCASE("sequences go on in the next generation") {
    const Generation next = begin(other);
    refresh(outbox);
    CHECK(outbox.tail()->generation == next);
    CHECK(outbox.tail()->generation_first == 5);
    CHECK(outbox.log_files() == std::vector<std::uint64_t>{1, 5});
  }
}

TEST_CASE("a torn tail is cut, at whatever byte, and appended to again") {
  const Place at;
  Outbox outbox(at.place());
  begin(outbox);
  REQUIRE(append(outbox, 1));
  const std::string log = outbox.log_path(1);
  const auto whole = std::filesystem::file_size(log);
  const std::uint64_t chain = outbox.tail()->last.chain;
  REQUIRE(append(outbox, 2));
  const auto with_last = std::filesystem::file_size(log);
  for (auto size = whole; size < with_last; ++size) {
    std::filesystem::resize_file(log, size);
    Outbox next(at.place());
    refresh(next);
    if (next.tail()->last.sequence != 2 || next.tail()->last.chain != chain) {
      FAIL("cut at " << size);
    }
    if (std::filesystem::file_size(log) != whole) FAIL("not cut at " << size);
    if (!append(next, 2)) FAIL("not appended after a cut at " << size);
    if (std::filesystem::file_size(log) != with_last) FAIL("torn after a cut at " << size);
  }
  // Nothing is left of what a dead process put there.
  std::ofstream(log, std::ios::app) << "rubbish";
  refresh(outbox);
  CHECK(std::filesystem::file_size(log) == with_last);
}

TEST_CASE("control is shared, and found again without its file") {
  const Place at;
  Outbox outbox(at.place());
  begin(outbox);
  {
    const auto lock = outbox.lock(0s);
    Control control = outbox.control();
    control.last_start = 123;
    control.quick_starts = 4;
    control.left_wal = 1;
    control.full = 1;
    outbox.set_control(control);
  }
  Outbox other(at.place());
  refresh(other);
  CHECK(other.control().current_log == 1);
  CHECK(other.control().last_start == 123);
  CHECK(other.control().quick_starts == 4);
  CHECK(other.control().left_wal == 1);
  CHECK(other.control().full == 1);

  std::filesystem::resize_file(outbox.directory() + "/control", 0);
  Outbox lost(at.place());
  refresh(lost);
  REQUIRE(lost.tail());
  CHECK(lost.tail()->last.sequence == 1);
  CHECK(lost.control().left_wal == 0);
}

TEST_CASE("log files rotate, and are trimmed behind what was shipped") {
  const Place at;
  Outbox outbox(at.place());
  const Generation generation = begin(outbox);
  const std::uint32_t pages = 100;
  std::vector<std::uint64_t> firsts{1};
  for (std::uint64_t sequence = 2; firsts.size() < 4; ++sequence) {
    const bool rotating = outbox.at_rotation();
    REQUIRE(append(outbox, pages, 65536));
    if (rotating) firsts.push_back(sequence);
  }
  CHECK(outbox.log_files() == firsts);
  CHECK(outbox.size() > 48U << 20);

  // Another process comes in at the newest file and knows all.
  Outbox other(at.place());
  refresh(other);
  CHECK(other.tail()->generation == generation);
  CHECK(other.tail()->generation_first == 1);
  CHECK(other.tail()->last.chain == outbox.tail()->last.chain);
  CHECK(other.tail()->wal_first == 1);

  Record reset;
  reset.kind = RecordKind::reset;
  reset.source.salt = {1, 2};
  {
    const auto lock = outbox.lock(0s);
    outbox.append_mark(reset);
  }
  const std::uint64_t last = outbox.tail()->last.sequence;
  CHECK(outbox.tail()->wal_first == last + 1);
  refresh(other);
  CHECK(other.tail()->wal_first == last + 1);

  outbox.trim(firsts[1] - 2);
  CHECK(outbox.log_files().size() == 4);
  outbox.trim(firsts[1] - 1);
  CHECK(outbox.log_files().front() == firsts[1]);
  outbox.trim(UINT64_MAX);
  CHECK(outbox.log_files() == std::vector<std::uint64_t>{firsts[3]});
  REQUIRE(append(outbox, 1, 65536));
  CHECK(outbox.tail()->wal_first == last + 1);
  refresh(other);
  CHECK(other.tail()->wal_first == last + 1);
}

TEST_CASE("a file that was begun by a process that died does not stand in the way") {
  const Place at;
  Outbox outbox(at.place());
  begin(outbox);
  std::ofstream(outbox.log_path(2)) << "half a header";
  CHECK(outbox.log_files() == std::vector<std::uint64_t>{1});
  const Generation next = begin(outbox);
  CHECK(outbox.tail()->generation == next);
  CHECK(outbox.log_files() == std::vector<std::uint64_t>{1, 2});
  Outbox other(at.place());
  refresh(other);
  CHECK(other.tail()->generation == next);
}

TEST_CASE("what a machine lost of the current file leaves no other file in its place") {
  const Place at;
  constexpr std::uint64_t kRotateSize = 4096;
  Outbox outbox(at.place(), kRotateSize);
  begin(outbox);
  while (!outbox.at_rotation()) REQUIRE(append(outbox, 2));
  REQUIRE(append(outbox, 2));
  const std::uint64_t second = outbox.current_log();
  const Control before = outbox.control();
  const auto left = fs::file_size(outbox.log_path(second));
  while (!outbox.at_rotation()) REQUIRE(append(outbox, 2));
  REQUIRE(append(outbox, 2));
  const std::uint64_t third = outbox.current_log();
  REQUIRE(third > second);

  // What the disk may have after a power failure: the third file and not what led to it.
  {
    const auto lock = outbox.lock(0s);
    outbox.set_control(before);
  }
  fs::resize_file(outbox.log_path(second), left);
  Outbox after(at.place(), kRotateSize);
  refresh(after);
  REQUIRE(after.tail()->last.sequence == second);
  while (!after.at_rotation()) REQUIRE(append(after, 1));
  REQUIRE(append(after, 1));
  CHECK(after.current_log() > third);
  CHECK_FALSE(fs::exists(after.log_path(third)));
  CHECK(after.log_files() == std::vector<std::uint64_t>{1, second, after.current_log()});
}

TEST_CASE("without a tail, a generation begins behind all that may have been shipped") {
  const Place at;
  std::uint64_t last = 0;
  {
    Outbox outbox(at.place());
    begin(outbox);
    for (int i = 0; i < 5; ++i) REQUIRE(append(outbox, 1));
    last = outbox.tail()->last.sequence;
    fs::resize_file(outbox.log_path(outbox.current_log()), 0);
  }
  Outbox outbox(at.place());
  begin(outbox);
  CHECK(outbox.tail()->last.sequence > last);
  CHECK(outbox.tail()->generation_first > last);
}

TEST_CASE("the capture lock keeps others out, in this process too") {
  const Place at;
  Outbox outbox(at.place());
  Outbox other(at.place());
  {
    const auto lock = outbox.lock(0s);
    REQUIRE(lock);
    CHECK_FALSE(other.lock(0s));
    CHECK_FALSE(other.lock(5ms));
    // The role is another lock.
    CHECK(other.try_take_role());
  }
  CHECK(other.lock(0s));
}

TEST_CASE("who captures something large is waited for, who stands still is not") {
  const Place place;
  Outbox busy(place.place());
  Outbox patient(place.place());
  auto lock = busy.lock(0s);
  REQUIRE(lock);
  CHECK_FALSE(patient.lock_patiently(20ms));
  CHECK_FALSE(patient.lock_patiently(0s));
  // Long after the limit it is there, for all the while a log file grew.
  std::thread capture([&] {
    std::ofstream log(place.place().directory + "/0000000000000001.log", std::ios::app);
    for (int i = 0; i < 60; ++i) {
      log << std::string(1000, 'x') << std::flush;
      std::this_thread::sleep_for(50ms);
    }
    lock.reset();
  });
  CHECK(patient.lock_patiently(2s));
  capture.join();
}

TEST_CASE("the shipping role is one's at a time") {
  const Place at;
  Outbox outbox(at.place());
  Outbox other(at.place());
  CHECK(outbox.watch_role() < 0);
  REQUIRE(outbox.try_take_role());
  CHECK(outbox.try_take_role());
  CHECK(outbox.has_role());
  CHECK_FALSE(other.try_take_role());
  CHECK_FALSE(other.has_role());

  const UniqueFd watch(other.watch_role());
  REQUIRE(watch);
  CHECK(poll_errors(watch.get(), 0) == 0);
  outbox.release_role();
  CHECK((poll_errors(watch.get(), 60'000) & POLLERR) != 0);
  CHECK(other.try_take_role());
  CHECK_FALSE(outbox.try_take_role());
}

TEST_CASE("a poke reaches whoever ships, and nobody otherwise") {
  const Place at;
  Outbox shipper(at.place());
  Outbox other(at.place());
  other.poke();
  REQUIRE(shipper.try_take_role());
  const auto poked = [&] {
    pollfd wait{shipper.wake_reader(), POLLIN, 0};
    const bool is = ::poll(&wait, 1, 0) == 1;
    std::vector<char> bytes(1 << 17);
    while (::read(shipper.wake_reader(), bytes.data(), bytes.size()) > 0) {
    }
    return is;
  };
  CHECK_FALSE(poked());
  other.poke();
  CHECK(poked());
  CHECK_FALSE(poked());
  // A shipper that does not listen costs the others nothing.
  for (int i = 0; i < 100'000; ++i) other.poke();
  CHECK(poked());
  shipper.release_role();
  other.poke();  // no SIGPIPE
  other.poke();
  REQUIRE(shipper.try_take_role());
  other.poke();
  CHECK(poked());
}

TEST_CASE("locks go with a killed process, though a child it forked lives on") {
  const Place at;
  Outbox outbox(at.place());
  int pid_pipe[2];
  REQUIRE(::pipe2(pid_pipe, O_CLOEXEC) == 0);
  const UniqueFd pid_in(pid_pipe[0]);
  const UniqueFd pid_out(pid_pipe[1]);

  Child holder([&](const std::function<void()>& ready) {
    Outbox own(at.place());
    const auto lock = own.lock(0s);
    if (!lock || !own.try_take_role()) ::_exit(1);
    const pid_t child = ::fork();
    if (child == 0) {
      const pid_t self = ::getpid();
      // Its copies were closed, not unlocked.
      if (own.wake_reader() != -1 || own.has_role()) ::_exit(1);
      if (::write(pid_out.get(), &self, sizeof self) != sizeof self) ::_exit(1);
      while (true) ::pause();
    }
    ready();
    while (true) ::pause();
  });
  pid_t grandchild = 0;
  pollfd wait{pid_in.get(), POLLIN, 0};
  REQUIRE(::poll(&wait, 1, 60'000) == 1);
  REQUIRE(::read(pid_in.get(), &grandchild, sizeof grandchild) == sizeof grandchild);

  CHECK_FALSE(outbox.lock(0s));
  CHECK_FALSE(outbox.try_take_role());
  const UniqueFd watch(outbox.watch_role());
  REQUIRE(watch);
  CHECK(poll_errors(watch.get(), 0) == 0);

  holder.kill();
  CHECK((poll_errors(watch.get(), 60'000) & POLLERR) != 0);
  CHECK(outbox.lock(0s));
  CHECK(outbox.try_take_role());
  CHECK(::kill(grandchild, 0) == 0);
  ::kill(grandchild, SIGKILL);
}

TEST_CASE("the child of fork() that uses the outbox anew is a process like others") {
  const Place at;
  Outbox outbox(at.place());
  REQUIRE(outbox.try_take_role());
  const auto lock = outbox.lock(0s);
  Child child([&](const std::function<void()>& ready) {
    Outbox own(at.place());
    if (own.lock(0s) || own.try_take_role()) ::_exit(1);
    ready();
  });
  CHECK(outbox.has_role());
}

TEST_CASE(
    "what a WAL brought into the file unannounced ends a snapshot before the next WAL's record") {
  const Place at;
  Outbox outbox(at.place());
  begin(outbox);
  append(outbox, 2);
  const auto lock = outbox.lock(0s);
  outbox.refresh();
  auto pages = outbox.begin_snapshot();
  REQUIRE(pages);
  const std::uint64_t id = pages->shape().id;
  CHECK(outbox.control().snapshot == id);
  CHECK(pages->shape().pages == 2);
  CHECK_FALSE(outbox.begin_snapshot());
  Record next = record_of(3);
  REQUIRE(outbox.append_batch(next, pages_to(3), one_image(512)));
  CHECK_FALSE(pages->is_void());
  next = record_of(1);
  next.source.salt = {7, 8};
  SUBCASE("unannounced") {
    SUBCASE("a commit") {
      REQUIRE(outbox.append_batch(next, pages_to(1), one_image(512)));
    }
    SUBCASE("a reset") {
      outbox.append_mark(next);
    }
    SUBCASE("also where its file cannot be deleted") {
      const std::string file = at.place().directory + '/' + OldPages::kName;
      ::unlink(file.c_str());
      std::filesystem::create_directories(file + "/in-the-way");
      REQUIRE(outbox.append_batch(next, pages_to(1), one_image(512)));
    }
    CHECK(pages->is_void());
    CHECK(outbox.control().snapshot == 0);
  }
  SUBCASE("announced") {
    pages->announce({{}, 3, false});
    REQUIRE(outbox.append_batch(next, pages_to(1), one_image(512)));
    CHECK_FALSE(pages->is_void());
    CHECK(outbox.control().snapshot == id);
    outbox.end_snapshot();
    CHECK(pages->is_void());
    CHECK(outbox.control().snapshot == 0);
  }
}
