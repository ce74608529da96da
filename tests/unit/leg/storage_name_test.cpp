#include "server/leg/storage_name.hpp"

#include <doctest/doctest.h>

#include "server/leg/late_writes.hpp"

using namespace blockloom;

TEST_CASE("a storage's name has no secrets, times or numbers of connections") {
  const char* const disk = "iscsi://host:3260/iqn.2026-01.com.example:disk/1";
  CHECK(storage_name("iscsi://host/iqn.2026-01.com.example:disk/1") == disk);
  CHECK(storage_name("iscsi://me%secret@host:3260/iqn.2026-01.com.example:disk/1?timeout=5s") ==
        disk);
  CHECK(storage_name("iscsi://me%***@host/iqn.2026-01.com.example:disk/1") == disk);
  CHECK(storage_name("iscsi://host/iqn.2026-01.com.example:disk/2") != disk);
  CHECK(storage_name("nbd://host/disk?connections=4&timeout_ms=100") ==
        storage_name("nbd://host:10809/disk"));
  CHECK(storage_name("nbd+unix:///x?socket=/run/a&timeout_ms=100") ==
        storage_name("nbd+unix:///x?socket=/run/a"));
  CHECK(storage_name("nbd+unix:///x?socket=/run/a") != storage_name("nbd+unix:///x?socket=/run/b"));
  CHECK(storage_name("file:///my%20disk") == "/my disk");
  CHECK(storage_name("/my disk") == "/my disk");
  CHECK(storage_name("fault:[read=error]:nbd://h/x?timeout_ms=100") ==
        "fault:[read=error]:nbd://h:10809/x");
}

TEST_CASE("a storage's name of what is no URI shows no password") {
  CHECK(storage_name("mem:1M?name=a") == "mem:1M?name=a");
  CHECK(storage_name("iscsi://me%secret@host") == "iscsi://me%***@host");
}

TEST_CASE("late writes are known by their storage until there is a proof") {
  LateWrites late;
  late.add("a");
  late.add("a");
  late.add("b");
  CHECK(late.count("a") == 2);
  CHECK(late.count("c") == 0);
  late.clear("a");
  CHECK(late.count("a") == 0);
  CHECK(late.count("b") == 1);
}
