#include "tests/unit/leg/leg_test.hpp"

using namespace blockloom;
using namespace blockloom::test;

namespace {

class OneDevice final : public DeviceResolver {
 public:
  Result<std::shared_ptr<Leg>> open_device(std::string_view name, bool read_only) override {
    asked_name = name;
    asked_read_only = read_only;
    return Error{Errc::not_found, "device 'x': does not exist"};
  }
  std::string asked_name;
  bool asked_read_only = false;
};

}  // namespace

TEST_CASE("dev: asks the resolver of the context") {
  OneDevice devices;
  LegContext context{&devices, nullptr};
  const auto leg = open_leg("fault:[]:dev:vol0", true, context);
  REQUIRE_FALSE(leg);
  CHECK(leg.code() == Errc::not_found);
  CHECK(leg.error().message == "device 'x': does not exist");
  CHECK(devices.asked_name == "vol0");
  CHECK(devices.asked_read_only);
}

TEST_CASE("dev: without a resolver is refused") {
  CHECK(refusal("dev:vol0") == "leg 'dev:vol0': other devices cannot be used here");
}

TEST_CASE("an unknown scheme is not supported, and the message says which exist") {
  LegContext context;
  for (const std::string uri : {"http://h/disk", "rbd:pool/image"}) {
    const auto leg = open_leg(uri, false, context);
    REQUIRE_FALSE(leg);
    CHECK(leg.code() == Errc::not_supported);
    CHECK(leg.error().message == "leg '" + uri + "': scheme '" + uri.substr(0, uri.find(':')) +
                                     "' is unknown: expected file, mem, dev, fault, nbd or iscsi");
  }
}

TEST_CASE("a relative path is refused as what it is") {
  LegContext context;
  for (const std::string uri : {"disk.img", "./a:b", "", "a/b"}) {
    const auto leg = open_leg(uri, false, context);
    REQUIRE_FALSE(leg);
    CHECK(leg.code() == Errc::invalid);
    CHECK(leg.error().message ==
          "leg '" + uri +
              "': expected an absolute path, or a URI that starts with file://, mem:, dev:, "
              "fault:, nbd:// or iscsi://");
  }
}

TEST_CASE("the length of a URI and its wrappers are bounded") {
  CHECK(refusal("/" + std::string(70'000, 'x')).ends_with("expected at most 65536 bytes"));
  std::string uri = "mem:64K";
  for (int i = 0; i < 8; ++i)
    uri = "fault:[]:" + uri;
  CHECK(open(uri)->size() == Bytes(64 << 10));
  CHECK(refusal("fault:[]:" + uri).ends_with("expected at most 8 fault wrappers"));
}

TEST_CASE("the device in a URI is found through any wrapper") {
  CHECK(device_in_uri("dev:vol0") == "vol0");
  CHECK(device_in_uri("fault:[read=error;any=hang]:dev:a:b") == "a:b");
  CHECK(device_in_uri("fault:[]:fault:[]:dev:x") == "x");
  for (const char* uri : {"", "/dev:x", "mem:1G", "fault:[]:/a", "fault:dev:x", "fault:[]dev:x"}) {
    CAPTURE(uri);
    CHECK(device_in_uri(uri).empty());
  }
}
