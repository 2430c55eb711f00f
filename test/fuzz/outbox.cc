// The files of an outbox, and a WAL and wal-index beside the database, as somebody else or a crash
// left them. Hashes are made right where the input says so, or nothing would come through.

#include <cstring>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "capture/glance.h"
#include "capture/outbox.h"
#include "capture/outbox_files.h"
#include "format/hex.h"
#include "format/metadata.h"
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
void seal_log(Bytes& log, std::uint64_t first,
              const std::optional<capture::FileIdentity>& identity) {
  if (log.size() < kHeader) return;
  std::memcpy(log.data(), "SQOBLOG2", 8);
  store(log, 24, first);
  store(log, 232, XXH3_64bits(log.data(), 232));
  auto chain = load<std::uint64_t>(log, 48 + 152);
  std::uint64_t sequence = first;
  for (std::size_t at = kHeader; at + kRecord <= log.size();) {
    const std::uint8_t how = log[at];  // 0xff to 0xfd leave something as it is
    if (how == 0xff) return;
    std::memcpy(&log[at], "SOB1", 4);
    // A folded one stands for two.
    if (load<std::uint16_t>(log, at + 6) != 0) ++sequence;
    store(log, at + 8, sequence);
    if (identity) store(log, at + 96, *identity);
    const std::uint64_t pages = load<std::uint32_t>(log, at + 16);
    const std::uint64_t page_size = load<std::uint32_t>(log, at + 20);
    const std::uint64_t images = at + kRecord + pages * 8;
    for (std::uint64_t i = 0; how != 0xfd && page_size != 0 && i < pages; ++i) {
      if (page_size > log.size() || images + (i + 1) * page_size > log.size()) break;
      const ByteView image = ByteView(log).subspan(images + i * page_size, page_size);
      store(log, at + kRecord + i * 8 + 4, capture::hash_page(image));
    }
    if (how != 0xfe && images <= log.size()) {
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
void write_note(ByteView content, bool whole, bool sealed) {
  static const Bytes empty = [] {
    save_replica_note(note_file(), fuzz::folder(), {});
    std::ifstream file(note_file(), std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(file), {});
  }();
  Bytes bytes(content.begin(), content.end());
  if (whole) {
    bytes.resize(empty.size());
    std::copy_n(empty.begin(), 8, bytes.begin());
  }
  if (whole && sealed) {
    store(bytes, bytes.size() - 8, XXH3_64bits(bytes.data(), bytes.size() - 8));
  }
  fuzz::write_file(note_file(), bytes);
}

// Of this boot, where the input says so; with the marks of generations that ended.
void write_control(const std::string& path, ByteView content, std::uint16_t flags) {
  constexpr auto kMark = static_cast<std::size_t>(capture::kFileNoteAt);
  constexpr auto kEnded = static_cast<std::size_t>(capture::kEndedAt);
  Bytes control(content.begin(), content.end());
  if ((flags & 4) != 0) {
    control.resize(std::max<std::size_t>(control.size(), sizeof(capture::DiskControl)));
    store(control, 0, capture::kControlMagic);
    const std::uint8_t which = control[8] % 4;
    store(control, 8, which == 3 ? 0 : kFirst + which);
    if ((flags & 16) != 0) store(control, offsetof(capture::DiskControl, boot), capture::boot_id());
    if ((flags & 16) != 0 && control.size() >= kMark + 4) store(control, kMark, capture::boot_id());
  }
  if ((flags & 64) != 0) control.resize(kEnded + capture::kEndedPlaces * sizeof(Generation));
  fuzz::write_file(path, control);
}

void read_images(const capture::LogFile& log, const capture::LogFile::Found& found) {
  Bytes image(found.record.page_size);
  const auto pages = log.read_pages(found);
  for (std::size_t i = 0; i < pages.size(); ++i) log.read_image(found, i, pages[i], image);
}

// The last batch's sequence.
std::uint64_t read_log(const std::string& path, bool check_images) {
  const auto log = capture::LogFile::open(path, false);
  if (!log) return 0;
  std::uint64_t last = 0;
  std::uint64_t offset = kHeader;
  std::uint64_t chain = log->header().state.chain;
  while (const auto found = log->read(offset, chain, check_images)) {
    fuzz::require(found->end > offset && found->end <= log->size());
    offset = found->end;
    chain = found->record.chain;
    last = found->record.sequence;
    try {
      read_images(*log, *found);
    } catch (const Error&) {
      fuzz::require(!check_images);
    }
  }
  return last;
}

// A replica that has the batch is found to end there, and one that has another is not.
void find_end(const std::string& folder, std::uint64_t behind, const Generation& begun,
              const Generation& generation, const capture::Record& last) {
  OutboxReader reader(folder);
  ReplicaEnd end;
  end.generation = generation;
  end.sequence = last.sequence;
  end.chain = last.chain;
  fuzz::require(seek_behind(reader, end, {kFirst}));
  ++end.chain;
  fuzz::require(!seek_behind(reader, end, {kFirst}));
  --end.chain;
  end.generation.id ^= 1;
  fuzz::require(!seek_behind(reader, end, {kFirst}));
  end.generation = begun;
  end.sequence = behind;
  end.open_batch = last.sequence;
  end.open_chain = last.chain;
  fuzz::require(seek_behind(reader, end, {kFirst}) || begun != generation);
}

// As the process that ships: what is there, to the batch `last`, as one segment behind what a
// replica has of it.
void fold(const std::string& folder, std::uint64_t behind, std::uint64_t last,
          std::uint8_t open_frames) {
  OutboxReader reader(folder);
  fuzz::require(!reader.generation());
  if (!reader.seek(behind, {kFirst})) return;
  const Generation begun = *reader.generation();
  const auto batch = std::make_shared<Batch>();
  std::size_t pages = 0;
  while (reader.next_generation(last)) {
    const auto entry = reader.next(last);
    const auto& record = entry->found.record;
    fuzz::require(record.sequence >= entry->first_sequence);
    // No generation has two page sizes, and none that SQLite has not.
    if (!wal::is_valid_page_size(record.page_size)) return;
    if (!batch->empty() && record.page_size != batch->page_size()) return;
    // What came back without an image is zeros: as many as the record says.
    if ((pages += record.page_count) > 64 || record.database_size > 4096) return;
    batch->add(*entry);
  }
  if (batch->empty()) return;
  find_end(folder, behind, begun, *reader.generation(), batch->last());
  ReplicaEnd end;
  end.generation = *reader.generation();
  if (open_frames != 0) end.open_batch = batch->last().sequence;
  end.open_frames = open_frames;
  SegmentEncoder encoder(batch, end, "host", "database", 4096);
  while (!encoder.done()) {
    const auto object = encoder.next();
    fuzz::require(decode_metadata(object.body)->pages == object.frames);
  }
}

void read_batches(const std::string& folder, std::uint64_t behind, std::uint64_t last,
                  std::uint8_t open_frames) {
  try {
    (void)first_commit_behind(folder, {kFirst}, behind, last);
  } catch (const Error&) {
  }
  try {
    fold(folder, behind, last, open_frames);
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
  (void)outbox.announced_beginning();
  (void)outbox.behind();
  (void)outbox.size();
  outbox.trim(kFirst);
  outbox.trim(kFirst);
  outbox.note_proven();
  outbox.refresh();
}

}  // namespace

FUZZ(data, size) {
  const std::string& folder = fuzz::folder();
  const std::string database = folder + "/app.db";
  static const auto identity = [&] {
    fuzz::write_file(database, {});
    return capture::identify(database);
  }();
  const std::string log_path = folder + '/' + capture::log_file_name(kFirst);
  const std::string next_path = folder + '/' + capture::log_file_name(kFirst + 1);
  for (const std::string& path : {database + "-wal", database + "-shm", log_path, next_path}) {
    std::filesystem::remove(path);
  }
  fuzz::Input input(data, size);
  const std::uint16_t flags = input.u16();

  const ByteView wal_bytes = input.take(input.u16());
  Bytes wal(wal_bytes.begin(), wal_bytes.end());
  if ((flags & 1) != 0) fuzz::seal_wal(wal);
  if (!wal.empty() || (flags & 1) != 0) fuzz::write_file(database + "-wal", wal);
  const std::uint8_t how = input.byte();
  const ByteView index_bytes = input.take(how == 0 ? 0 : 96);
  Bytes index(index_bytes.begin(), index_bytes.end());
  index.resize(96);
  fuzz::seal_wal_index(index.data(), how & 7);
  if (how != 0) fuzz::write_file(database + "-shm", index);
  write_note(input.take(input.byte()), (flags & 2) != 0, (flags & 1024) == 0);
  write_control(folder + "/control", input.take(input.byte()), flags);
  const std::uint8_t behind = input.byte();
  const std::uint8_t open_frames = input.byte();
  const std::uint64_t last_offset = std::uint64_t{input.byte()} - 1;
  Bytes log(input.rest().begin(), input.rest().end());
  const auto seal = [&](std::uint64_t first) {
    if ((flags & 8) == 0) return;
    seal_log(log, first, (flags & 32) != 0 ? identity : std::nullopt);
  };
  seal(kFirst);
  if ((flags & 128) == 0) fuzz::write_file(log_path, log);
  // Another one behind it, with the same records.
  seal(kFirst + 1);
  if ((flags & 512) != 0) log.resize(std::min<std::size_t>(log.size(), 100));
  if ((flags & 256) != 0) fuzz::write_file(next_path, log);

  try {
    if ((flags & 128) == 0) {
      read_log(log_path, true);
      const std::uint64_t last = read_log(log_path, false);
      read_batches(folder, behind, last + last_offset, open_frames);
    }
    look(folder, database);
    take_part(folder);
    look(folder, database);
    fuzz::require(!capture::glance_at(database));
  } catch (const Error& error) {
    fuzz::require(error.what()[0] != '\0');
  }
  return 0;
}
