// Folding an outbox: what it keeps apart, what it keeps, and what a crash in the middle leaves.

#include "shipper/fold.h"

#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include <doctest/doctest.h>

#include "base/error.h"
#include "shipper/batch.h"

using namespace sqlstream;
using namespace sqlstream::capture;

namespace fs = std::filesystem;

namespace {

constexpr std::uint32_t kPageSize = 512;
constexpr Generation kGeneration{0x1122'3344'5566'7788};

class TempFolder {
 public:
  TempFolder() {
    std::string name = (fs::temp_directory_path() / "sqlstream-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() { fs::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

capture::OutboxPlace place_of(const std::string& folder) {
  capture::OutboxPlace place;
  place.directory = folder;
  place.owner = ::geteuid();
  place.group = ::getegid();
  return place;
}

// A database as the plain model: the first byte of each page.
using Model = std::vector<std::uint8_t>;

// Log files of random batches, with the model's state after each.
class History {
 public:
  History(std::string directory, std::uint64_t seed)
      : directory_(std::move(directory)), random_(seed) {
    state_.chain = kGeneration.id;
    batch_chain_ = kGeneration.id;
    models_[0] = {};
  }

  void add_file(int batches, bool mark, Generation generation = kGeneration) {
    LogHeader header;
    header.generation = generation;
    header.generation_first = 1;
    header.first = sequence_ + 1;
    header.state = state_;
    header.batch_chain = batch_chain_;
    LogFile log = LogFile::create(directory_ + '/' + log_file_name(header.first), header, 0600);
    std::uint64_t end = LogFile::kHeaderSize;
    for (int i = 0; i < batches; ++i) end = add_batch(log, end);
    if (mark) {
      Record record;
      record.kind = RecordKind::reset;
      record.sequence = sequence_;
      record.page_size = kPageSize;
      log.append(end, record, state_.chain, {}, {});
      state_ = record;
    }
    files.push_back(header.first);
  }

  std::uint64_t last() const { return sequence_; }
  const Model& model_after(std::uint64_t sequence) const { return models_.at(sequence); }
  std::uint64_t chain_after(std::uint64_t sequence) const { return chains_.at(sequence); }

  std::vector<std::uint64_t> files;

 private:
  std::uint64_t add_batch(LogFile& log, std::uint64_t end) {
    Model model = models_.at(sequence_);
    model.resize(1 + random_() % 40);
    std::map<std::uint32_t, std::uint8_t> images;
    const auto changes = 1 + random_() % 6;
    for (std::uint64_t i = 0; i < changes; ++i) {
      images[static_cast<std::uint32_t>(1 + random_() % model.size())] =
          static_cast<std::uint8_t>(random_());
    }
    std::vector<std::uint32_t> pages;
    for (const auto& [page, value] : images) {
      pages.push_back(page);
      model[page - 1] = value;
    }
    Record record;
    record.sequence = ++sequence_;
    record.page_size = kPageSize;
    record.database_size = static_cast<std::uint32_t>(model.size());
    record.commits = 1;
    record.first_commit = record.last_commit = static_cast<std::int64_t>(sequence_ * 1000);
    end = log.append(end, record, state_.chain, pages,
                     [&](std::size_t first, std::size_t count, std::span<std::uint8_t> out) {
                       std::fill(out.begin(), out.end(), std::uint8_t{0});
                       for (std::size_t i = 0; i < count; ++i) {
                         out[i * kPageSize] = images.at(pages[first + i]);
                       }
                       return true;
                     });
    state_ = record;
    batch_chain_ = record.chain;
    chains_[sequence_] = record.chain;
    models_[sequence_] = std::move(model);
    return end;
  }

  std::string directory_;
  std::mt19937_64 random_;
  std::uint64_t sequence_ = 0;
  Record state_;
  std::uint64_t batch_chain_ = 0;
  std::map<std::uint64_t, Model> models_;
  std::map<std::uint64_t, std::uint64_t> chains_;
};

std::vector<std::uint64_t> files_in(const std::string& directory) {
  std::vector<std::uint64_t> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (const auto first = parse_log_file_name(entry.path().filename().string())) {
      files.push_back(*first);
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

void put_into(Model& model, Batch& batch) {
  model.resize(batch.last().database_size);
  Bytes image(kPageSize);
  for (const auto& [page, place] : batch.pages()) {
    batch.read(page, place, image);
    model[page - 1] = image[0];
  }
}

// What a replica that ends at `from` becomes when all that follows is shipped, a batch at a time.
void expect_continues(const std::string& directory, const History& history, std::uint64_t from) {
  INFO("from batch " << from);
  OutboxReader reader(directory);
  REQUIRE(reader.seek(from, files_in(directory)));
  if (from > 0) CHECK(reader.batch_chain() == history.chain_after(from));
  Model model = history.model_after(from);
  std::uint64_t at = from;
  while (const auto entry = reader.next(history.last())) {
    CHECK(entry->first_sequence == at + 1);
    Batch batch;
    batch.add(*entry);
    put_into(model, batch);
    at = batch.last().sequence;
    CHECK(model == history.model_after(at));
    CHECK(batch.last().chain == history.chain_after(at));
    CHECK(batch.last().last_commit == static_cast<std::int64_t>(at * 1000));
    CHECK(batch.first_commit() == static_cast<std::int64_t>(batch.first_sequence() * 1000));
    CHECK(batch.commits() == at - batch.first_sequence() + 1);
  }
  CHECK(at == history.last());
}

std::uint64_t test_seed() {
  const char* given = std::getenv("SQLSTREAM_TEST_SEED");
  const std::uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  MESSAGE("SQLSTREAM_TEST_SEED=" << seed);
  return seed;
}

}  // namespace

TEST_CASE("what is being shipped, or divides a file, is not folded; the last file never") {
  const std::vector<std::uint64_t> files = {1, 11, 21, 31, 41, 51};
  const auto plan = [&](std::vector<OutboxUse> uses) {
    std::vector<std::vector<std::uint64_t>> runs;
    for (const auto& run : plan_folds(files, uses)) runs.push_back(run.files);
    return runs;
  };
  using Runs = std::vector<std::vector<std::uint64_t>>;
  CHECK(plan({}) == Runs{{1, 11, 21, 31, 41}});
  CHECK(plan({{0}}) == Runs{{1, 11, 21, 31, 41}});
  CHECK(plan({{5}}) == Runs{{11, 21, 31, 41}});
  CHECK(plan({{10}}) == Runs{{11, 21, 31, 41}});
  CHECK(plan({{20}}) == Runs{{1, 11}, {21, 31, 41}});
  CHECK(plan({{25}}) == Runs{{1, 11}, {31, 41}});
  CHECK(plan({{20, 21, 22}}) == Runs{{1, 11}, {31, 41}});
  CHECK(plan({{20, 21, 31}}) == Runs{{1, 11}});
  CHECK(plan({{55}}) == Runs{{1, 11, 21, 31, 41}});
  CHECK(plan({{5}, {25}}) == Runs{{31, 41}});
  CHECK(plan_folds({}, {}).empty());
  CHECK(plan_folds({1}, {}).empty());
  CHECK(plan_folds({1, 5}, {}).empty());
  CHECK(plan_folds(files, {}).front().end == 51);
}

TEST_CASE("a folded outbox continues every replica as the one before did, and folds again") {
  const std::uint64_t seed = test_seed();
  for (std::uint64_t round = 0; round < 60; ++round) {
    INFO("round " << round);
    std::mt19937_64 random(seed + round);
    const TempFolder folder;
    History history(folder.path(), seed + round);
    const auto grow = [&] {
      for (auto files = 2 + random() % 5; files > 0; --files) {
        history.add_file(static_cast<int>(1 + random() % 4), random() % 2 == 0);
      }
    };
    grow();
    const std::uint64_t end = random() % (history.last() + 1);
    for (int times = 0; times < 3; ++times) {
      const auto files = files_in(folder.path());
      for (const auto& run : plan_folds(files, {{end}})) {
        fold(place_of(folder.path()), run);
      }
      expect_continues(folder.path(), history, end);
      grow();
      expect_continues(folder.path(), history, end);
    }
    CHECK(files_in(folder.path()).size() < history.files.size());
  }
}

TEST_CASE("a fold tells what it freed") {
  const TempFolder folder;
  History history(folder.path(), 1);
  for (int files = 0; files < 4; ++files) history.add_file(50, false);
  const auto size = [&] {
    std::uintmax_t bytes = 0;
    for (const auto& file : fs::directory_iterator(folder.path())) bytes += file.file_size();
    return bytes;
  };
  const auto before = size();
  const auto runs = plan_folds(history.files, {});
  REQUIRE(runs.size() == 1);
  const std::uint64_t freed = fold(place_of(folder.path()), runs[0]);
  REQUIRE(size() < before);
  CHECK(freed == before - size());
}

TEST_CASE("a fold ends at a generation's end") {
  const TempFolder folder;
  History history(folder.path(), 1);
  history.add_file(2, false);
  history.add_file(2, false);
  history.add_file(2, false, Generation{2});
  history.add_file(2, false, Generation{2});
  history.add_file(1, false, Generation{2});
  const auto runs = plan_folds(history.files, {});
  REQUIRE(runs.size() == 1);
  fold(place_of(folder.path()), runs[0]);
  CHECK(files_in(folder.path()) == std::vector<std::uint64_t>{1, 5, 9});
  OutboxReader reader(folder.path());
  REQUIRE(reader.seek(0, files_in(folder.path())));
  CHECK(reader.next_generation(9) == kGeneration);
  CHECK(reader.next(9)->found.record.sequence == 4);
  CHECK(reader.next_generation(9) == Generation{2});
}

TEST_CASE("ended between any two of its steps, a fold leaves each batch once") {
  const TempFolder folder;
  History history(folder.path() + "/outbox", 7);
  fs::create_directory(folder.path() + "/outbox");
  const std::string outbox = folder.path() + "/outbox";
  const std::string before = folder.path() + "/before";
  for (int i = 0; i < 5; ++i) history.add_file(3, i % 2 == 0);
  fs::copy(outbox, before);
  const auto runs = plan_folds(history.files, {});
  REQUIRE(runs.size() == 1);
  auto place = place_of(outbox);
  place.file_mode = 0640;
  if (::geteuid() == 0) place.group = 4321;
  fold(place, runs[0]);
  struct stat st {};
  REQUIRE(::stat((outbox + '/' + log_file_name(1)).c_str(), &st) == 0);
  CHECK(st.st_gid == place.group);
  CHECK((st.st_mode & 0777) == 0640);
  const auto folded = files_in(outbox);
  REQUIRE(folded == std::vector<std::uint64_t>{1, 13});

  // The steps: the temporary file, the rename, and each deletion, in ascending order.
  for (std::size_t deleted = 0; deleted < 4; ++deleted) {
    INFO(deleted << " of the other files deleted");
    const std::string crashed = folder.path() + "/crashed" + std::to_string(deleted);
    fs::copy(outbox, crashed);
    for (std::size_t i = 1 + deleted; i < 4; ++i) {
      const std::string name = log_file_name(history.files[i]);
      fs::copy(before + '/' + name, crashed + '/' + name);
    }
    expect_continues(crashed, history, 0);
    finish_fold(crashed, files_in(crashed));
    CHECK(files_in(crashed) == folded);
    expect_continues(crashed, history, 0);
  }
  const std::string begun = folder.path() + "/begun";
  fs::copy(before, begun);
  fs::copy(outbox + '/' + log_file_name(1), begun + "/fold.tmp");
  fs::resize_file(begun + "/fold.tmp", 1000);
  expect_continues(begun, history, 0);
  fold(place_of(begun), runs[0]);
  expect_continues(begun, history, 0);
  CHECK(files_in(begun) == folded);
  fs::copy(outbox + '/' + log_file_name(1), begun + "/fold.tmp");
  finish_fold(begun, files_in(begun));
  CHECK_FALSE(fs::exists(begun + "/fold.tmp"));
  expect_continues(begun, history, 0);
}

TEST_CASE("a fold that is finished spares the last file, and other generations") {
  const TempFolder folder;
  History history(folder.path(), 5);
  for (int i = 0; i < 3; ++i) history.add_file(3, false);
  fold(place_of(folder.path()), plan_folds(history.files, {})[0]);
  REQUIRE(files_in(folder.path()) == std::vector<std::uint64_t>{1, 7});
  // In the place of what was folded: files that another generation began.
  const auto begin = [&](std::uint64_t first) {
    LogHeader header;
    header.generation = Generation{9};
    header.generation_first = header.first = first;
    LogFile::create(folder.path() + '/' + log_file_name(first), header, 0600);
  };
  begin(4);
  finish_fold(folder.path(), files_in(folder.path()));
  CHECK(files_in(folder.path()) == std::vector<std::uint64_t>{1, 4, 7});
  fs::remove(folder.path() + '/' + log_file_name(7));
  fs::remove(folder.path() + '/' + log_file_name(4));
  LogHeader header;
  header.generation = kGeneration;
  header.first = 4;
  LogFile::create(folder.path() + '/' + log_file_name(4), header, 0600);
  finish_fold(folder.path(), files_in(folder.path()));
  CHECK(files_in(folder.path()) == std::vector<std::uint64_t>{1, 4});
}

TEST_CASE("a damaged file is left as it is, and holds no others back") {
  for (const bool lost : {false, true}) {
    CAPTURE(lost);
    const TempFolder folder;
    History history(folder.path(), 3);
    for (int i = 0; i < 6; ++i) history.add_file(3, false);
    const auto name = folder.path() + '/' + log_file_name(history.files[2]);
    // Damaged, or without its last batches.
    const auto size = fs::file_size(name);
    fs::resize_file(name, lost ? size - 1 : LogFile::kHeaderSize + 100);
    const auto left = fs::file_size(name);
    const auto runs = plan_folds(history.files, {});
    REQUIRE(runs.size() == 1);
    fold(place_of(folder.path()), runs[0]);
    const auto& files = history.files;
    CHECK(files_in(folder.path()) ==
          std::vector<std::uint64_t>{files[0], files[2], files[3], files[5]});
    CHECK(fs::file_size(name) == left);
  }
}
