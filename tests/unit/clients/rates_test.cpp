#include <doctest/doctest.h>

#include "clients/blockloom/output.hpp"
#include "tests/unit/clients/values.hpp"

using namespace blockloom;
using namespace blockloom::cli;

namespace {

const char* const before = R"({"time_s":10,"devices":[{"name":"a","queued":0,
  "io":{"reads":100,"read_bytes":4096,"samples":10,"sampled_ns":1000},
  "legs":[{"uri":"/old","io":{"reads":1000}}]}]})";
const char* const after = R"({"time_s":12,"devices":[{"name":"a","suspended":true,"queued":3,
  "io":{"reads":300,"read_bytes":8196096,"samples":14,"sampled_ns":5000,"in_flight":2},
  "legs":[{"uri":"/old","io":{"reads":50}},{"uri":"/new","io":{"reads":8}}]}]})";

}  // namespace

TEST_CASE("rates are growth by the server's time, latency by the timed requests") {
  const rpc::Value rates = rates_of(value(before), value(after));
  CHECK(rates["interval_s"].real() == 2);
  const rpc::Value& device = rates["devices"].list().at(0);
  CHECK(device["rates"]["reads_per_s"].real() == 100);
  CHECK(device["rates"]["read_bytes_per_s"].real() == 4096000);
  CHECK(device["rates"]["latency_s"].real() == doctest::Approx(1e-6));
  CHECK(device["rates"]["in_flight"].whole() == 2);
  CHECK(device["queued"].whole() == 3);
}

TEST_CASE("counters that began anew, with a new table, count from nothing") {
  const rpc::Value rates = rates_of(value(before), value(after));
  const auto& legs = rates["devices"].list().at(0)["legs"].list();
  CHECK(legs.at(0)["rates"]["reads_per_s"].real() == 25);
  CHECK(legs.at(1)["rates"]["reads_per_s"].real() == 4);
  CHECK(legs.at(1)["rates"]["latency_s"].is_null());
}

TEST_CASE("answers of the same instant do not divide by nothing") {
  const rpc::Value rates = rates_of(value(after), value(after));
  CHECK(rates["devices"].list().at(0)["rates"]["reads_per_s"].real() == 0);
}

TEST_CASE("the table of top is aligned, a leg below its device") {
  const std::string text = top_text(rates_of(value(before), value(after)));
  CHECK(text ==
        "DEVICE / LEG                    READ/S   WRITE/S   OTHER/S READ MiB/s WRIT MiB/s   "
        "LATENCY  FLIGHT QUEUED ERRORS/S\n"
        "a (suspended)                      100         0         0        3.9        0.0   "
        "1.00 us       2      3        0\n"
        "  /old                              25         0         0        0.0        0.0         "
        "-       0               0\n"
        "  /new                             4.0         0         0        0.0        0.0         "
        "-       0               0\n");
}
