// The log file's bytes: written, torn, damaged.

#include "capture/outbox_log.h"

#include <fcntl.h>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <vector>

#include <doctest/doctest.h>

#include "base/error.h"
#include "support.h"

using namespace sqlstream;
using namespace sqlstream::capture;
using namespace sqlstream::testing;

namespace {

constexpr std::uint64_t kSeedChain = 77;

LogHeader some_header() {
  LogHeader header;
  header.generation = Generation{0x1234'5678'9abc'def0};
  header.generation_first = 3;
  header.first = 5;
  header.inode = 6;
  header.device = 7;
  header.state.sequence = 4;
  header.state.page_size = 512;
  header.state.chain = kSeedChain;
  header.state.source = {{1, 2}, 3, 4, {5, 6}};
  header.state.identity = {1, 2, 3, 4, 5};
  return header;
}

Record batch_record(std::uint64_t sequence, std::uint32_t page_size = 512) {
  Record record;
  record.sequence = sequence;
  record.page_size = page_size;
  record.database_size = 100;
  record.commits = 2;
  record.first_commit = 10;
  record.last_commit = 11;
  record.source = {{8, 9}, 10, 11, {12, 13}};
  record.previous = {{14, 15}, 16, 17, {18, 19}};
  record.identity = {20, 21, 22, 23, 24};
  return record;
}

LogFile::ImageSource images_of(const std::vector<std::uint32_t>& pages, std::uint32_t page_size) {
  return [&pages, page_size](std::size_t first, std::size_t count, std::span<std::uint8_t> out) {
    for (std::size_t i = 0; i < count; ++i) {
      const Bytes image = image_of(pages[first + i], page_size);
      std::copy(image.begin(), image.end(),
                out.begin() + static_cast<std::ptrdiff_t>(i * page_size));
    }
    return true;
  };
}

void flip_bit(const std::string& path, std::uint64_t offset) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  std::uint8_t byte = 0;
  REQUIRE(::pread(fd.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
  byte ^= 0x10;
  REQUIRE(::pwrite(fd.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
}

/// A file with one record of two pages.
struct OneRecord {
  TempFolder folder;
  std::string path = folder.file(log_file_name(5));
  LogFile log = LogFile::create(path, some_header(), 0600);
  std::vector<std::uint32_t> pages = {4, 2};
  Record record = batch_record(5);
  std::uint64_t end =
      log.append(LogFile::kHeaderSize, record, kSeedChain, pages, images_of(pages, 512));
};

}  // namespace

TEST_CASE("log file names") {
  CHECK(log_file_name(0x1f) == "000000000000001f.log");
  CHECK(parse_log_file_name("000000000000001f.log") == 0x1f);
  for (const char* name : {"", "1f.log", "000000000000001f.log.x", "000000000000001F.log",
                           "000000000000001g.log", "snapshot-0"}) {
    CHECK_FALSE(parse_log_file_name(name));
  }
}

TEST_CASE("a log file's header is read back") {
  const TempFolder folder;
  const std::string path = folder.file("a.log");
  const LogHeader header = some_header();
  LogFile::create(path, header, 0640);
  CHECK_THROWS_AS(LogFile::create(path, header, 0640), std::system_error);
  const auto log = LogFile::open(path, false);
  REQUIRE(log);
  CHECK(log->size() == LogFile::kHeaderSize);
  CHECK(log->header().generation == header.generation);
  CHECK(log->header().generation_first == 3);
  CHECK(log->header().first == 5);
  CHECK(log->header().inode == 6);
  CHECK(log->header().device == 7);
  CHECK(log->header().state.source == header.state.source);
  CHECK(log->header().state.identity == header.state.identity);
  CHECK(log->header().state.chain == kSeedChain);

  SUBCASE("torn") {
    std::filesystem::resize_file(path, LogFile::kHeaderSize - 1);
    CHECK_FALSE(LogFile::open(path, false));
  }
  SUBCASE("damaged") {
    for (std::uint64_t at = 0; at < 48; at += 5) {
      flip_bit(path, at);
      CHECK_FALSE(LogFile::open(path, false));
      flip_bit(path, at);
    }
    CHECK(LogFile::open(path, false));
  }
  SUBCASE("missing") {
    CHECK_THROWS_AS(LogFile::open(path + "x", false), std::system_error);
  }
}

TEST_CASE("a record is read back as it was written") {
  OneRecord one;
  CHECK(one.end == one.log.size());
  const auto log = LogFile::open(one.path, false);
  REQUIRE(log);
  const auto found = log->read(LogFile::kHeaderSize, kSeedChain, true);
  REQUIRE(found);
  CHECK(found->end == one.end);
  const Record& record = found->record;
  CHECK(record.kind == RecordKind::batch);
  CHECK(record.sequence == 5);
  CHECK(record.page_count == 2);
  CHECK(record.database_size == 100);
  CHECK(record.commits == 2);
  CHECK(record.first_commit == 10);
  CHECK(record.last_commit == 11);
  CHECK(record.source == one.record.source);
  CHECK(record.previous == one.record.previous);
  CHECK(record.identity == one.record.identity);
  CHECK(record.chain == one.record.chain);
  const auto pages = log->read_pages(*found);
  REQUIRE(pages.size() == 2);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(pages[i].page == one.pages[i]);
    Bytes image(512);
    log->read_image(*found, i, pages[i], image);
    CHECK(image == image_of(one.pages[i], 512));
  }
  CHECK_FALSE(log->read(one.end, record.chain, true));

  SUBCASE("a record that does not follow the one before it is none") {
    CHECK_FALSE(log->read(LogFile::kHeaderSize, kSeedChain + 1, false));
  }
  SUBCASE("the chain covers what was captured") {
    Record other = batch_record(5);
    const std::vector<std::uint32_t> pages2 = {4, 3};
    one.log.append(LogFile::kHeaderSize, other, kSeedChain, pages2, images_of(pages2, 512));
    CHECK(other.chain != record.chain);
  }
}

TEST_CASE("records of many sizes, over several writes each") {
  for (const std::uint32_t page_size : {512U, 4096U, 65536U}) {
    const TempFolder folder;
    const std::string path = folder.file("a.log");
    LogFile log = LogFile::create(path, some_header(), 0600);
    std::uint64_t at = LogFile::kHeaderSize;
    std::uint64_t chain = kSeedChain;
    std::vector<std::uint64_t> ends;
    const std::uint32_t a_megabyte = (1 << 20) / page_size;
    const std::vector<std::uint32_t> counts = {
        1, a_megabyte - 1, a_megabyte, a_megabyte + 1, 3 * a_megabyte + a_megabyte / 2, 1};
    for (const std::uint32_t count : counts) {
      std::vector<std::uint32_t> pages(count);
      for (std::uint32_t i = 0; i < count; ++i) pages[i] = i + 1;
      Record record = batch_record(5 + ends.size(), page_size);
      at = log.append(at, record, chain, pages, images_of(pages, page_size));
      REQUIRE(at == log.size());
      chain = record.chain;
      ends.push_back(at);
    }
    at = LogFile::kHeaderSize;
    chain = kSeedChain;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const auto found = log.read(at, chain, true);
      REQUIRE(found);
      CHECK(found->record.page_count == counts[i]);
      CHECK(found->end == ends[i]);
      const auto list = log.read_pages(*found);
      Bytes image(page_size);
      log.read_image(*found, counts[i] - 1, list.back(), image);
      CHECK(image == image_of(counts[i], page_size));
      at = found->end;
      chain = found->record.chain;
    }
  }
}

TEST_CASE("a record without pages is a mark") {
  OneRecord one;
  Record mark = batch_record(5);
  mark.kind = RecordKind::reset;
  const auto end = one.log.append(one.end, mark, one.record.chain, {}, {});
  const auto found = one.log.read(one.end, one.record.chain, true);
  REQUIRE(found);
  CHECK(found->end == end);
  CHECK(found->record.kind == RecordKind::reset);
  CHECK(found->record.page_count == 0);
}

TEST_CASE("what the source gives up, or fails in, leaves nothing") {
  for (const std::uint32_t count : {2U, 5000U}) {  // in one write, and in several
    OneRecord one;
    std::vector<std::uint32_t> pages(count);
    for (std::uint32_t i = 0; i < count; ++i) pages[i] = i + 1;
    Record record = batch_record(6);
    std::size_t calls = 0;
    const auto until_last = [&](std::size_t first, std::size_t n, std::span<std::uint8_t>) {
      ++calls;
      return first + n < count;
    };
    CHECK(one.log.append(one.end, record, one.record.chain, pages, until_last) == 0);
    CHECK((calls > 1) == (count > 100));
    CHECK(one.log.size() == one.end);
    const auto failing = [&](std::size_t first, std::size_t n, std::span<std::uint8_t>) -> bool {
      if (first + n < count) return true;
      throw std::runtime_error("no");
    };
    CHECK_THROWS_AS(one.log.append(one.end, record, one.record.chain, pages, failing),
                    std::runtime_error);
    CHECK(one.log.size() == one.end);
    CHECK(one.log.read(LogFile::kHeaderSize, kSeedChain, true));
  }
}

TEST_CASE("a file that may not grow any more ends no program") {
  OneRecord one;
  std::vector<std::uint32_t> pages(5000);
  for (std::uint32_t i = 0; i < pages.size(); ++i) pages[i] = i + 1;
  Record record = batch_record(6);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit small{1 << 20, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  bool failed = false;
  try {
    one.log.append(one.end, record, one.record.chain, pages, images_of(pages, 512));
  } catch (const std::system_error& e) {
    failed = e.code() == std::errc::file_too_large;
  }
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  CHECK(failed);
  CHECK(one.log.size() == one.end);
  CHECK(one.log.append(one.end, record, one.record.chain, pages, images_of(pages, 512)) > one.end);
}

TEST_CASE("a record torn at any byte is none") {
  OneRecord one;
  const auto log = LogFile::open(one.path, false);
  REQUIRE(log);
  for (std::uint64_t size = LogFile::kHeaderSize; size < one.end; ++size) {
    // Shorter each time is the same as cut anew; grown again it is zeros.
    std::filesystem::resize_file(one.path, LogFile::kHeaderSize);
    one.log.append(LogFile::kHeaderSize, one.record, kSeedChain, one.pages,
                   images_of(one.pages, 512));
    std::filesystem::resize_file(one.path, size);
    if (log->read(LogFile::kHeaderSize, kSeedChain, false)) FAIL("torn at " << size);
  }
}

TEST_CASE("a flipped bit is noticed wherever it is") {
  OneRecord one;
  const auto whole = one.log.read(LogFile::kHeaderSize, kSeedChain, true);
  REQUIRE(whole);
  for (std::uint64_t at = whole->offset; at < whole->images; ++at) {
    flip_bit(one.path, at);
    if (one.log.read(LogFile::kHeaderSize, kSeedChain, false)) FAIL("flipped at " << at);
    flip_bit(one.path, at);
  }
  for (std::uint64_t at = whole->images; at < whole->end; at += 13) {
    flip_bit(one.path, at);
    CHECK_FALSE(one.log.read(LogFile::kHeaderSize, kSeedChain, true));
    const auto found = one.log.read(LogFile::kHeaderSize, kSeedChain, false);
    REQUIRE(found);
    const auto list = one.log.read_pages(*found);
    const std::size_t index = (at - whole->images) / 512;
    Bytes image(512);
    CHECK_THROWS_AS(one.log.read_image(*found, index, list[index], image), Error);
    one.log.read_image(*found, 1 - index, list[1 - index], image);
    flip_bit(one.path, at);
  }
  CHECK(one.log.read(LogFile::kHeaderSize, kSeedChain, true));
}
