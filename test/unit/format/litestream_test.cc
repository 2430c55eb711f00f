#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include "format/lz4_frame.h"
#include "format/wal.h"
#include "test/unit/format/files.h"
#include "test/unit/format/sqlite.h"

// Objects as Litestream 0.3.13 wrote them: PRAGMA page_size=512; CREATE TABLE t(x); the row 'one';
// then, in the second segment, the row 'two'.

namespace sqlstream {
namespace {

constexpr std::string_view kSnapshot =
    "04224d186470b919010000f61253514c69746520666f726d61742033000200020200402020000000030000000400"
    "01000c100015011a000f020007ff0403002e6ad00d0000000301180001df017001182d00070f020079fc0e560306"
    "172d2d01617461626c655f6c69746573747265616d5f6c6f636b1000ec04435245415445205441424c45201e00fd"
    "072028696420494e5445474552296d0207172b2b01811159003873657168004f73657103570006387365715600f5"
    "02205052494d415259204b45592c207365716f00f9011f0106170f0f012f7461626c657474025200ef742878290d"
    "0000000101f90001f97d01780f0200ff52df050102136f6e650d00000000027001ff510f0200840f0002ffdb0002"
    "00000200b000000000000000000000000000000020b30458";
constexpr std::string_view kSegment0 =
    "04224d186470b978010000f815377f0682002de218000002000000000077b0dbe1d2b768dbb6a6b38a49e9430100"
    "0000011800f315640b06ea6556fb9b53514c69746520666f726d6174203300020002020040202000000003040004"
    "02005302000000040c00140050000f02000cff0203002e6ad00d0000000201700001df01702f000b0f0200cffb0e"
    "6d0207172b2b0181117461626c655f6c69746573747265616d5f7365710f00eb03435245415445205441424c4520"
    "1d00f40e2028696420494e5445474552205052494d415259204b45592c207365711900f902291f0106170f0f012f"
    "7461626c6574740252004374287829e40114033002b40a0fa92af17bc09a0d00004b020f0200ffe60930048ffb33"
    "4573a177875b30040c0820041f03300429a70301180001df0170011852000f0200888d560306172d2d0161d70348"
    "6c6f636bbb03596c6f636b0487030c1e0008da031f2930048054040000000430048fb7ebe25ca12a72b93004ffda"
    "000200000200c000000000000000000000000000000000a84f676a";
constexpr std::string_view kSegment880 =
    "04224d186470b940000000f00a000000020000000477b0dbe1d2b768db96f52a9692d9f16e0d19008f01f20001f9"
    "01f2000100ffcc000200f0020000000502021374776f050102136f6e6500000000b081426a";

Bytes from_hex_text(std::string_view hex) {
  Bytes bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(
        static_cast<std::uint8_t>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

// Decodes one object behind what is in `out`.
void append_decoded(std::string_view object, Bytes& out) {
  lz4::Decompressor decompressor;
  decompressor.write(from_hex_text(object),
                     [&](ByteView piece) { out.insert(out.end(), piece.begin(), piece.end()); });
  decompressor.finish();
}

TEST_CASE("objects that Litestream wrote are decoded") {
  Bytes snapshot;
  append_decoded(kSnapshot, snapshot);
  CHECK(as_text(snapshot).starts_with("SQLite format 3"));
  REQUIRE(snapshot.size() % 512 == 0);
  Bytes wal;
  append_decoded(kSegment0, wal);
  REQUIRE(wal.size() == 0x880);
  append_decoded(kSegment880, wal);

  wal::Decoder decoder;
  ByteView input = wal;
  std::uint32_t commits = 0;
  while (const auto frame = decoder.next(input)) commits += frame->commit_size != 0 ? 1 : 0;
  CHECK(decoder.at_frame_boundary());
  CHECK(decoder.header()->page_size == 512);
  CHECK(commits >= 2);

  const test::TempFolder folder;
  test::write_file(folder.file("db"), snapshot);
  test::write_file(folder.file("db-wal"), wal);
  test::Database db(folder.file("db"));
  CHECK(db.value("SELECT group_concat(x) FROM t") == "one,two");
  CHECK(db.value("PRAGMA integrity_check") == "ok");
}

}  // namespace
}  // namespace sqlstream
