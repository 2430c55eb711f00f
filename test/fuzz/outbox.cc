// The files of an outbox, and a WAL and wal-index beside the database, as somebody else or a crash
// left them. Hashes are made right where the input says so, or nothing would come through.

#include <cstring>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "capture/glance.h"
#include "capture/outbox_files.h"
#include "format/hex.h"
#include "shipper/batch.h"
#include "shipper/replica_note.h"
#include "test/fuzz/input.h"
#include "test/fuzz/wal.h"

using namespace sqlstream;

namespace {

constexpr std::size_t kHeader = capture::LogFile::kHeaderSize;
constexpr std::size_t kRecord = 168;
constexpr std::uint64_t kFirst = 7;  // sequence of the log file's first batch
constexpr const char* kUrl = "file:///replica";

template <class Integer>
Integer load(const Bytes& bytes, std::size_t at) {
  Integer value{};
  std::memcpy(&value, &bytes[at], sizeof value);
  return value;
}

template <class Integer>
void store(Bytes& bytes, std::size_t at, Integer value) {
  std::memcpy(&bytes[at], &value, sizeof value);
}

// doc/internals.md has the layout.
void seal_log(Bytes& log) {
  if (log.size() < kHeader) return;
  std::memcpy(log.data(), "SQOBLOG2", 8);
  store(log, 24, kFirst);
  store(log, 232, XXH3_64bits(log.data(), 232));
  auto chain = load<std::uint64_t>(log, 48 + 152);
  std::uint64_t sequence = kFirst;
  for (std::size_t at = kHeader; at + kRecord <= log.size();) {
    if (log[at] == 0xff) return;
    std::memcpy(&log[at], "SOB1", 4);
    store(log, at + 8, sequence);
    const std::uint64_t pages = load<std::uint32_t>(log, at + 16);
    const std::uint64_t page_size = load<std::uint32_t>(log, at + 20);
    if (pages * 8 <= log.size() - at - kRecord) {
      store(log, at + 136, XXH3_64bits(log.data() + at + kRecord, pages * 8));
    }
    store(log, at + 144, chain);
    store(log, at + 152, XXH3_64bits_withSeed(&log[at], 152, chain));
    store(log, at + 160, XXH3_64bits(&log[at], 160));
    chain = load<std::uint64_t>(log, at + 152);
    if (load<std::uint16_t>(log, at + 4) == 1) ++sequence;
    const std::uint64_t record = kRecord + pages * (8 + page_size);
    if (record > log.size() - at) return;
    at += record;
  }
}

std::string note_file() {
  return replica_note_path(fuzz::folder(), kUrl);
}

// The note begins with its magic, and has the hash of all before in its last 8 bytes.
void write_note(ByteView content, bool sealed) {
  static const Bytes empty = [] {
    save_replica_note(note_file(), fuzz::folder(), {});
    std::ifstream file(note_file(), std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(file), {});
  }();
  Bytes bytes(content.begin(), content.end());
  if (sealed) {
    bytes.resize(empty.size());
    std::copy_n(empty.begin(), 8, bytes.begin());
    store(bytes, bytes.size() - 8, XXH3_64bits(bytes.data(), bytes.size() - 8));
  }
  fuzz::write_file(note_file(), bytes);
}

void read_images(const capture::LogFile& log, const capture::LogFile::Found& found) {
  Bytes image(found.record.page_size);
  const auto pages = log.read_pages(found);
  for (std::size_t i = 0; i < pages.size(); ++i) log.read_image(found, i, pages[i], image);
}

void read_log(const std::string& path, bool check_images) {
  const auto log = capture::LogFile::open(path, false);
  if (!log) return;
  std::uint64_t offset = kHeader;
  std::uint64_t chain = log->header().state.chain;
  while (const auto found = log->read(offset, chain, check_images)) {
    fuzz::require(found->end > offset && found->end <= log->size());
    offset = found->end;
    chain = found->record.chain;
    try {
      read_images(*log, *found);
    } catch (const Error&) {
      fuzz::require(!check_images);
    }
  }
}

void read_batches(const std::string& folder) {
  OutboxReader reader(folder);
  try {
    if (!reader.seek(kFirst - 1, {kFirst})) return;
    while (const auto entry = reader.next(UINT64_MAX)) {
      fuzz::require(entry->found.record.sequence >= entry->first_sequence);
    }
  } catch (const Error&) {
  }
}

void look(const std::string& folder, const std::string& database) {
  const auto glance = capture::glance_at(folder);
  if (glance && glance->tail) (void)capture::has_more_than(*glance->tail, database);
  (void)capture::has_more_than({}, database);
  if (const auto note = load_replica_note(note_file())) {
    fuzz::require(note->error.size() < 512 && note->writer.size() < 512);
  }
}

// As a process that captures does: it cuts off what is no record.
void take_part(const std::string& folder) {
  capture::Outbox outbox({folder, 0600, ::getuid(), ::getgid()});
  const auto lock = outbox.lock({});
  outbox.refresh();
  (void)outbox.generation_alive();
}

}  // namespace

FUZZ(data, size) {
  const std::string& folder = fuzz::folder();
  const std::string database = folder + "/app.db";
  const std::string log_path = folder + '/' + capture::log_file_name(kFirst);
  fuzz::Input input(data, size);
  const std::uint8_t flags = input.byte();

  const ByteView wal_bytes = input.take(input.u16());
  Bytes wal(wal_bytes.begin(), wal_bytes.end());
  if ((flags & 1) != 0) fuzz::seal_wal(wal);
  fuzz::write_file(database + "-wal", wal);
  fuzz::write_file(database + "-shm", input.take(input.byte()));
  write_note(input.take(input.byte()), (flags & 2) != 0);
  const ByteView control_bytes = input.take(input.byte());
  Bytes control(control_bytes.begin(), control_bytes.end());
  if ((flags & 4) != 0) {
    control.resize(std::max<std::size_t>(control.size(), sizeof(capture::DiskControl)));
    store(control, 0, capture::kControlMagic);
    store(control, 8, kFirst);
  }
  fuzz::write_file(folder + "/control", control);
  Bytes log(input.rest().begin(), input.rest().end());
  if ((flags & 8) != 0) seal_log(log);
  fuzz::write_file(log_path, log);

  try {
    read_log(log_path, true);
    read_log(log_path, false);
    read_batches(folder);
    look(folder, database);
    take_part(folder);
    look(folder, database);
  } catch (const Error& error) {
    fuzz::require(error.what()[0] != '\0');
  }
  return 0;
}
