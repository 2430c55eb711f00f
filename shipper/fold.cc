#include "shipper/fold.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <optional>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

#include "base/error.h"
#include "shipper/batch.h"

namespace sqlstream {
namespace {

using capture::LogFile;

// A batch of over 4 GiB could not be shipped in one index.
constexpr std::uint64_t kLargest = 2ULL << 30;
constexpr const char* kTemporary = "/fold.tmp";

// The files of one fold, and what is in them.
struct Fold {
  std::vector<std::uint64_t> files;
  std::vector<OutboxReader::Entry> entries;
  capture::LogHeader header;
  std::uint64_t bytes = 0;
};

std::string path_of(const std::string& directory, std::uint64_t first) {
  return directory + '/' + capture::log_file_name(first);
}

[[noreturn]] void fail(const std::string& what, const std::string& path) {
  throw std::system_error(errno, std::generic_category(), what + ' ' + path);
}

// All batches of the file `first`, which ends before `next`.
std::vector<OutboxReader::Entry> batches_of(OutboxReader& reader, std::uint64_t first,
                                            std::uint64_t next) {
  std::vector<OutboxReader::Entry> entries;
  if (!reader.seek(first - 1, {first})) throw Error("the outbox file is not what its name says");
  while (auto entry = reader.next(next - 1)) {
    entries.push_back(*entry);
    if (entry->found.record.sequence == next - 1) break;
  }
  if (entries.empty() || entries.back().found.record.sequence != next - 1) {
    throw Error("the outbox is damaged before batch " + std::to_string(next));
  }
  return entries;
}

std::uint64_t size_of(int fd) {
  struct stat st {};
  return ::fstat(fd, &st) == 0 ? static_cast<std::uint64_t>(st.st_size) : 0;
}

// Returns the bytes that it freed.
std::uint64_t write(const capture::OutboxPlace& place, const Fold& fold) {
  const std::string& directory = place.directory;
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < fold.entries.size(); ++i) {
    const auto& file = fold.entries[i].file;
    if (i == 0 || file != fold.entries[i - 1].file) before += size_of(file->fd());
  }
  Batch batch;
  for (const auto& entry : fold.entries) batch.add(entry);
  const auto& images = batch.pages();
  std::vector<std::uint32_t> pages;
  pages.reserve(images.size());
  for (const auto& [page, image] : images) pages.push_back(page);

  capture::Record record = batch.last();
  record.folded = true;
  record.first_commit = batch.first_commit();
  record.commits = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(batch.commits(), std::numeric_limits<std::uint32_t>::max()));

  const std::string temporary = directory + kTemporary;
  const std::string target = path_of(directory, fold.files.front());
  ::unlink(temporary.c_str());
  auto log = LogFile::create(temporary, fold.header, place.first_mode());
  try {
    place.own(log.fd(), place.file_mode);
    const std::size_t page_size = batch.page_size();
    log.append(LogFile::kHeaderSize, record, fold.header.state.chain, pages,
               [&](std::size_t first, std::size_t count, std::span<std::uint8_t> out) {
                 for (std::size_t i = 0; i < count; ++i) {
                   const auto& [page, image] = images[first + i];
                   batch.read(page, image, out.subspan(i * page_size, page_size));
                 }
                 return true;
               });
    // The batches it stands for may have been on the disk already: after a crash of the machine
    // they must not be gone because of this.
    if (::fsync(log.fd()) != 0) fail("cannot write", temporary);
    if (::rename(temporary.c_str(), target.c_str()) != 0) fail("cannot rename", temporary);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  for (std::size_t i = 1; i < fold.files.size(); ++i) {
    ::unlink(path_of(directory, fold.files[i]).c_str());
  }
  return before - std::min(before, size_of(log.fd()));
}

}  // namespace

std::vector<FoldRun> plan_folds(const std::vector<std::uint64_t>& files,
                                const std::vector<OutboxUse>& uses) {
  std::vector<FoldRun> runs;
  FoldRun run;
  const auto close = [&](std::uint64_t end) {
    run.end = end;
    if (run.files.size() > 1) runs.push_back(run);
    run.files.clear();
  };
  for (std::size_t i = 0; i + 1 < files.size(); ++i) {
    const std::uint64_t first = files[i];
    const std::uint64_t last = files[i + 1] - 1;
    const bool fixed = std::any_of(uses.begin(), uses.end(), [&](const OutboxUse& use) {
      const bool divided = first <= use.end && use.end < last;
      return divided || (use.last != 0 && first <= use.last && use.first <= last);
    });
    const bool begins = std::any_of(uses.begin(), uses.end(),
                                    [&](const OutboxUse& use) { return use.end + 1 == first; });
    if (fixed || begins) close(first);
    if (!fixed) run.files.push_back(first);
  }
  if (!files.empty()) close(files.back());
  return runs;
}

std::uint64_t fold(const capture::OutboxPlace& place, const FoldRun& run) {
  OutboxReader reader(place.directory);
  std::uint64_t freed = 0;
  Fold fold;
  const auto finish = [&] {
    if (fold.files.size() > 1) freed += write(place, fold);
    fold = {};
  };
  for (std::size_t i = 0; i < run.files.size(); ++i) {
    const std::uint64_t first = run.files[i];
    const std::uint64_t next = i + 1 < run.files.size() ? run.files[i + 1] : run.end;
    std::vector<OutboxReader::Entry> entries;
    try {
      entries = batches_of(reader, first, next);
    } catch (const Error&) {  // damaged, or its end is lost: it is for who ships to say
      finish();
      continue;
    }
    const auto& header = entries.front().file->header();
    std::uint64_t bytes = 0;
    bool one_page_size = true;
    for (const auto& entry : entries) {
      bytes += entry.found.end - entry.found.images;
      one_page_size =
          one_page_size && entry.found.record.page_size == entries.front().found.record.page_size;
    }
    const bool follows =
        !fold.files.empty() && header.generation == fold.header.generation &&
        fold.bytes + bytes <= kLargest && one_page_size &&
        fold.entries.front().found.record.page_size == entries.front().found.record.page_size;
    if (!follows) {
      finish();
      fold.header = header;
    }
    fold.files.push_back(first);
    fold.bytes += bytes;
    fold.entries.insert(fold.entries.end(), entries.begin(), entries.end());
  }
  finish();
  return freed;
}

void finish_fold(const std::string& directory, const std::vector<std::uint64_t>& files) {
  ::unlink((directory + kTemporary).c_str());
  std::uint64_t folded = 0;  // up to here the batches are in an earlier file
  Generation generation;
  for (std::size_t i = 0; i + 1 < files.size(); ++i) {
    const std::uint64_t first = files[i];
    const auto log = LogFile::open(path_of(directory, first), false);
    if (!log) continue;
    if (first <= folded && log->header().generation == generation) {
      ::unlink(path_of(directory, first).c_str());
      continue;
    }
    const auto found = log->read(LogFile::kHeaderSize, log->header().state.chain, false);
    if (found && found->record.folded) {
      folded = found->record.sequence;
      generation = log->header().generation;
    }
  }
}

}  // namespace sqlstream
