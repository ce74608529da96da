#include "proto/dump/netconsole.hpp"

#include <doctest/doctest.h>

using namespace blockloom::dump;

namespace {

std::string lines_of(NetconsoleReader& reader, std::string_view datagram) {
  std::string all;
  for (const auto& line : reader.take(datagram))
    all += line.text + "|";
  return all;
}

}  // namespace

TEST_CASE("an extended message gives level, number, time and text, without its dictionary") {
  const auto packet = parse_netconsole("6,416,1758426,-;the text\n SUBSYSTEM=net\n");
  REQUIRE(packet.extended);
  CHECK(packet.level == 6);
  CHECK(packet.seq == 416);
  CHECK(packet.usec == 1758426);
  CHECK_FALSE(packet.continues);
  CHECK(netconsole_text(packet.body) == "the text");
}

TEST_CASE("a release may come first") {
  const auto packet = parse_netconsole("6.1.0-18-amd64,4,5,6,c;x");
  REQUIRE(packet.extended);
  CHECK(packet.release == "6.1.0-18-amd64");
  CHECK(packet.level == 4);
  CHECK(packet.continues);
}

TEST_CASE("what has no such header is basic text") {
  for (const char* text : {"plain", "1,2;x", "a b,1,2,3,-;x", "6,x,3,-;y", "6,1,2,--;z", ";"}) {
    CAPTURE(text);
    const auto packet = parse_netconsole(text);
    CHECK_FALSE(packet.extended);
    CHECK(packet.body == text);
  }
}

TEST_CASE("basic lines may be spread over datagrams") {
  NetconsoleReader reader;
  CHECK(lines_of(reader, "one\ntw") == "one|");
  CHECK(lines_of(reader, "o\n") == "two|");
  CHECK(lines_of(reader, "rest") == "");
  const auto flushed = reader.flush();
  REQUIRE(flushed.size() == 1);
  CHECK(flushed[0].text == "rest");
}

TEST_CASE("fragments make one message in any order") {
  NetconsoleReader reader;
  CHECK(lines_of(reader, "6,1,10,-,ncfrag=5/11;world!") == "");
  CHECK(lines_of(reader, "6,1,10,-,ncfrag=0/11;hello") == "helloworld!|");
}

TEST_CASE("a fragment that is lost leaves what came before it, marked") {
  NetconsoleReader reader;
  CHECK(lines_of(reader, "6,1,10,-,ncfrag=0/10;hello") == "");
  const auto flushed = reader.flush();
  REQUIRE(flushed.size() == 1);
  CHECK(flushed[0].text == "hello --- the rest of this message was lost ---");
}

TEST_CASE("lost messages and a reboot are marked") {
  NetconsoleReader reader;
  lines_of(reader, "6,100,90000000,-;a");
  CHECK(lines_of(reader, "6,103,90000001,-;b") == "--- 2 messages lost ---|b|");
  CHECK(lines_of(reader, "5,0,0,-;Linux version") ==
        "--- the sender has started again ---|Linux version|");
  CHECK(lines_of(reader, "5,1,10,-;next") == "next|");
}

TEST_CASE("an older message that comes late is neither a gap nor a reboot") {
  NetconsoleReader reader;
  lines_of(reader, "6,100,90000000,-;a");
  lines_of(reader, "6,102,90000002,-;c");
  CHECK(lines_of(reader, "6,101,90000001,-;b") == "b|");
}

TEST_CASE("lies about fragments cost nothing") {
  NetconsoleReader reader;
  for (const char* lie :
       {"6,1,1,-,ncfrag=0/4294967295;x", "6,1,1,-,ncfrag=9/4;x", "6,1,1,-,ncfrag=3/4;xy",
        "6,1,1,-,ncfrag=0/4;", "6,1,1,-,ncfrag=-1/4;x"}) {
    CAPTURE(lie);
    const auto lines = reader.take(lie);
    CHECK(lines.size() <= 1);
  }
  // Only so many wait for their rest.
  for (int i = 0; i < 100; ++i)
    reader.take("6," + std::to_string(10 + i) + ",1,-,ncfrag=0/60000;x");
  CHECK(reader.flush().size() <= 64);
}

TEST_CASE("escapes are undone where that shows something, control characters are shown") {
  CHECK(netconsole_text("caf\\xc3\\xa9") == "caf\xc3\xa9");
  CHECK(netconsole_text("\\x1b[31m") == "\\x1b[31m");
  CHECK(netconsole_text("\x1b[31m") == "\\x1b[31m");
  CHECK(netconsole_text("\\x4") == "\\x4");
}
